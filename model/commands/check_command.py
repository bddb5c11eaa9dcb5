"""`python -m model check FOLDER`: lists the problems of a folder."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from model.progress_bar import bar
from model.translations import DEFAULT, languages

DESCRIPTION = """\
Check a model folder or an adapter before it is served: what each file is for, and every problem
with its remedy. FOLDER is a path, or a name in models/ or adapters/. The exit status is 0 if there
is no error, else 1.
"""


def add_to(commands: Any) -> None:
    command = commands.add_parser(
        "check", help="find the problems of a model folder or an adapter", description=DESCRIPTION,
        allow_abbrev=False,
    )  # fmt: skip
    add = command.add_argument
    add("folder", metavar="FOLDER", help="base model or adapter")
    add(
        "--base_model", metavar="B",
        help="base of the adapter: compare shapes, vocabulary, origin and effect (default: none)",
    )  # fmt: skip
    add(
        "--deep", action="store_true",
        help="read every number and compare every checksum; measure an adapter's effect even if "
        "the base is large",
    )  # fmt: skip
    add(
        "--lang",
        choices=languages(),
        default=DEFAULT,
        help="language of the report (default: en)",
    )
    add("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    from model.doctor.check import check_folder

    report = check_folder(options.folder, options.base_model, deep=options.deep, bar=bar)
    if options.json:
        print(json.dumps(report.to_json(options.lang), ensure_ascii=False, indent=2))
    else:
        print(report.to_text(options.lang))
    return 0 if report.ok else 1
