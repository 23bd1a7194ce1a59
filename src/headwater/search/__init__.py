"""First-stage candidates: passages of documents and BM25 over them."""
