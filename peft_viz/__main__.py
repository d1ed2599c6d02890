"`python -m peft_viz`: the command `peft-viz`."

import sys

from peft_viz.cli import main

if __name__ == "__main__":
    sys.exit(main())
