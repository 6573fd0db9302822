"""Integrate cells from the command line, as ``scalex train`` does; see python train.py --help."""

from scalex.commands.main import start

if __name__ == "__main__":
    start("train")
