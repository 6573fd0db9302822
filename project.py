"""Project cells into a trained space from the command line, as ``scalex project`` does; see python project.py --help."""

from scalex.commands.main import start

if __name__ == "__main__":
    start("project")
