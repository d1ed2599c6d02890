"Reads its arguments and a file beside itself; pickles what `__main__` defines; starts a process; has an exit code."

import argparse, multiprocessing, os, pickle, sys
from pathlib import Path


class Point:
    def __init__(self, x):
        self.x = x


def square(x):
    return x * x, __name__, sys.argv[1:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", required=True)
    parser.add_argument("-o", "--output", default="nothing")
    options = parser.parse_args()
    print(
        sys.argv, os.path.basename(__file__), Path(sys.path[0]).name, [p for p in sys.path if "startup" in p]
    )
    print(pickle.loads(pickle.dumps(Point(3))).x, Point.__module__, sys.modules["__main__"].__spec__)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [2, 3]))

    import beside  # a module beside the script
    import torch
    from transformers import AutoModelForCausalLM

    from peft_viz.zoo.models import TINY

    words = (Path(__file__).parent / options.words).read_text().split()
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    beside.add_lora(model)
    for word in words:
        print(word, model(input_ids=torch.tensor([[len(word), 5, 6]])).logits.argmax(-1).tolist())
    sys.exit(int(options.output) if options.output.isdigit() else 0)
