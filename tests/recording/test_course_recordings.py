"""The recording of the lesson on `generate` that was made with transformers 4 is what transformers 4 does today.

`python tests/recording/test_course_recordings.py`, with transformers 4, makes it anew."""

from pathlib import Path

import transformers

from peft_viz import compare, load_learned, record, Trace

FILE = Path(__file__).parents[2] / "nbs" / "tutorials" / "generate_transformers_4.json"


def generated():
    "As the lesson does it: two questions, the first of them padded."
    prefix, tokenizer = load_learned("sort", "prefix")
    question = tokenizer(["fig=", "hello="], padding=True, padding_side="left", return_tensors="pt")
    with record(prefix, tokenizer=tokenizer) as trace:
        prefix.generate(**question, max_new_tokens=6, do_sample=False)
    return trace


def test_an_upgrade_moves_the_positions_of_a_padded_row():
    old = Trace.load(FILE)
    got = {d.what: d for d in compare(old, generated()).differences}
    assert old.about["transformers"].startswith("4.")
    if transformers.__version__.startswith("4."):
        assert not got
    else:
        assert got.keys() <= {"decisions", "positions", "next tokens"}
        assert (got["positions"].a, got["positions"].b, got["positions"].place[0]) == (6, 4, 0)


if __name__ == "__main__":
    generated().save(FILE)
