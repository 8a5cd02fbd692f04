"""`python -m dsv4c`: the same as the `dsv4c` command."""

from dsv4c.cli import main

if __name__ == "__main__":
    main(prog_name="dsv4c")
