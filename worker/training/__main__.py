"""Train one claimed job: `python -m worker.training --job ID --fence N`."""

import gc
import sys


def main() -> int:
    # Hardly anything that the imports create is garbage, and to look for it took a third of their time.
    gc.disable()
    from worker.training import run

    gc.freeze()
    gc.enable()
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
