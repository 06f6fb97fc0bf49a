"""The licences of all installed packages, and what is known of their vulnerabilities: ``make audit``.

Never fails a build: a network that is not there, or a vulnerability without a fix, is for people to judge.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import Distribution, distributions

SECONDS = 120  # that the audit may take


def licence(of: Distribution) -> str:
    """What a package says its licence is, on one line: the expression, a classifier, or the old field."""
    about = of.metadata
    classifiers = [each.rpartition(" :: ")[2] for each in about.get_all("Classifier") or []
                   if each.startswith("License ::")]  # fmt: skip
    told = about["License-Expression"] or "; ".join(classifiers) or (about["License"] or "").strip()
    return re.sub(r"\s+", " ", told)[:60] or "not said"


def main() -> None:
    """Print both."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in distributions():
        found[licence(each)].add(f"{each.metadata['Name']} {each.version}")
    print("Licences")
    for name, packages in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"  {name}: {', '.join(sorted(packages, key=str.casefold))}")
    if "--licences" in sys.argv:
        return
    print("Vulnerabilities")
    if importlib.util.find_spec("pip_audit") is None:
        print("  not looked for: pip-audit is not installed (pip install pip-audit)")
        return
    # OSV's database; the other service would ask the package registry for every package by itself.
    ask = [
        sys.executable,
        "-m",
        "pip_audit",
        "--local",
        "--progress-spinner=off",
        "--vulnerability-service=osv",
    ]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"  not looked for: no answer within {SECONDS} s")
        return
    if done.stdout.strip() or "No known vulnerabilities" in done.stderr:
        print("  " + (done.stdout.strip() or "none is known").replace("\n", "\n  "))
    else:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"  not looked for, as without a network: {last[:200]}")


if __name__ == "__main__":
    main()
