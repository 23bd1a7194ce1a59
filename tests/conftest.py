"""Small models are fastest on one thread, and several test processes do not fight over the cores then."""

import torch

torch.set_num_threads(1)
