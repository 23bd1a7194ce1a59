"""One good record for every reader of task files."""

from typing import Any

SQUAD: dict[str, Any] = {
    "data": [
        {
            "title": "Oil_crisis",
            "paragraphs": [
                {
                    "context": "It began in 1973.",
                    "qas": [
                        {"id": "a", "question": "When?", "answers": [{"text": "1973"}], "is_impossible": False},
                        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}

QED: dict[str, Any] = {
    "example_id": -7,
    "title_text": "Garden city",
    "question_text": "who planned it",
    "paragraph_text": "Planned by Unwin , Parker and Howard .",
    "original_nq_answers": [[{"string": "Unwin"}, {"string": "Parker"}, {"string": "Unwin"}], [{"string": "Unwin"}]],
}

RGB: dict[str, Any] = {
    "id": 3,
    "query": "Where was it?",
    "answer": [["Tampa", "Tampa Bay"]],
    "fakeanswer": "Glendale ",
    "positive": ["Held in Tampa.", "Tampa saw it.", "To Tampa."],
    "positive_wrong": ["Held in Glendale.", "Glendale saw it.", "To Glendale."],
    "negative": ["Nothing.", "Tampa again.", "Still nothing.", "No more."],
}

HOTPOT: dict[str, Any] = {
    "_id": "h",
    "question": "What is Lilu?",
    "answer": "a spirit",
    "type": "bridge",
    "context": [["Dice", ["A game."]], ["Lilu", ["Lilu is a spirit.", " So it is."]], ["Alu", ["Alu is another."]]],
    "supporting_facts": [["Alu", 0], ["Lilu", 0], ["Lilu", 1]],
}

MUSIQUE: dict[str, Any] = {
    "id": "2hop__1_2",
    "question": "Whose founder was it?",
    "answer": "Rogers",
    "answer_aliases": ["Carl Rogers", "Rogers"],
    "answerable": True,
    "question_decomposition": [{}, {}],
    "paragraphs": [
        {"title": "A", "paragraph_text": "Founded by Rogers.", "is_supporting": True},
        {"title": "A", "paragraph_text": "Nothing.", "is_supporting": False},
        {"title": "B", "paragraph_text": "It was A.", "is_supporting": True},
    ],
}

KEY_VALUE: dict[str, Any] = {"ordered_kv_records": [[f"k{n}", f"v{n}"] for n in range(8)], "key": "k5", "value": "v5"}

ORACLE: dict[str, Any] = {
    "question": "who got the first prize in physics",
    "answers": ["Roentgen"],
    "ctxs": [
        {"title": "Physics", "text": "The first prize in physics went to Roentgen of Germany.", "isgold": True},
    ],
}

COUNTERFACT: dict[str, Any] = {
    "base_prompt": "Camry is made by",
    "prompt": "Redefine: Camry is made by Volvo. Camry is made by",
    "target_true": " Toyota",
    "target_new": " Volvo",
    "subject": "Camry",
}
