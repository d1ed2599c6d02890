"""Puts the weights of the playground into the site: one script that its page (nbs/playground.ipynb) loads after
it was painted."""

from pathlib import Path

WEIGHTS = "playground-weights.js"  # beside the page that names it


def write(site):
    "Write the script of weights into the folder of a rendered site."
    from peft_viz.views import playground

    Path(site, WEIGHTS).write_text(playground.weights_script(), encoding="utf-8")
