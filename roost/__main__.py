"""`python -m roost`, and with it `torchrun --nproc-per-node 2 -m roost train ...`."""

from roost.cli import main

if __name__ == "__main__":
    main()
