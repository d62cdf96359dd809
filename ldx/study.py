"""A study: `python -m ldx.study --config=configs/studies/infonce_vs_distillation.py --workdir=DIR`.

It runs a declared grid of training runs, each in a process of its own, and ends in one report:
DIR/study.txt, study.json, study.csv and index.html. After a stop or a kill, the same command goes
on.

The studies are in configs/studies. FILE.py is of full size, for accelerators; FILE.py:cpu takes
minutes a cell on two cores; FILE.py:smoke takes one to three minutes, on what is installed, and
shows no more than that everything runs. --config.study.roots.NAME=FOLDER says where the collection
NAME is, in BEIR layout; without this flag, it is NAME in the folder that LDX_DATA_DIR names.
"""

from absl import flags

from ldx.common import cli
from ldx.studies.run import run_study


def define_flags() -> None:
    """Define the flags of this command."""
    cli.define_config("Study", "configs/studies/infonce_vs_distillation.py", ":cpu|:smoke")
    flags.DEFINE_string("workdir", None, "Folder of the study: data, cells, report")


def main(argv: list[str]) -> None:
    """Do what is still missing of the study, and print its report."""
    cli.refuse_arguments(argv)
    run_study(cli.get_config(is_study=True).to_dict(), cli.required_folder("workdir"))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
