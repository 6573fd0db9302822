"""The program ``scalex``, started as ``python -m scalex``."""

from scalex.commands.main import main

if __name__ == "__main__":
    main()
