"""`python -m model check`: reports what is wrong with a model folder or an adapter."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from model.progress_bar import bar
from model.translations import DEFAULT, languages

DESCRIPTION = """\
Check a model folder or an adapter before it is served: what each file is for, and every problem
with its remedy. FOLDER is a path, or a name in models/ or adapters/. Exit status 0 if there is no
error, else 1.
"""


def add_to(commands: Any) -> None:
    command = commands.add_parser(
        "check", help="what is wrong with a model folder or an adapter", description=DESCRIPTION,
        allow_abbrev=False,
    )  # fmt: skip
    add = command.add_argument
    add("folder", metavar="FOLDER", help="a base model or an adapter")
    add(
        "--base_model", metavar="B",
        help="the base that an adapter is for: shapes, vocabulary, origin and effect are compared",
    )  # fmt: skip
    add(
        "--deep", action="store_true",
        help="read every number and compare every sum; of an adapter, measure its effect however "
        "large the base",
    )  # fmt: skip
    add(
        "--lang",
        choices=languages(),
        default=DEFAULT,
        help="the language of the report (default: en)",
    )
    add("--json", action="store_true", help="JSON instead of text")
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    from model.doctor.check import check_folder

    report = check_folder(options.folder, options.base_model, deep=options.deep, bar=bar)
    if options.json:
        print(json.dumps(report.to_json(options.lang), ensure_ascii=False, indent=2))
    else:
        print(report.to_text(options.lang))
    return 0 if report.ok else 1
