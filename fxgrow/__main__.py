"""`python -m fxgrow`."""

from fxgrow.cli import main

main()
