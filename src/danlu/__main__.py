"""`python -m danlu` is the same as `danlu`."""

from danlu.cli.main import main

main()
