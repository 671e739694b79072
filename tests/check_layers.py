#!/usr/bin/env python3
"""Fails on an include that goes up: a folder may include only itself and the folders above it in docs/design.md's list."""

import pathlib
import re
import sys

LAYERS = ["base", "image", "tensor", "weights", "text", "flux", "catalog", "store", "media", "queue", "provider",
          "gateway", "server", "cli"]
# The public header is the engine's face: flux implements it, and what stands below flux in the list may use it.
PUBLIC_FROM = "flux"
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def faults_of(root):
    for path in sorted(root.glob("src/**/*.[ch]")):
        layer = path.relative_to(root / "src").parts[0]
        if layer not in LAYERS:
            yield f"{path}: folder {layer} is not in the list of layers"
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1)
            top = target.split("/")[0]
            where = f"{path.relative_to(root)}:{number}: #include \"{target}\""
            if top == "limn":
                if LAYERS.index(layer) < LAYERS.index(PUBLIC_FROM):
                    yield f"{where}: the public header belongs to {PUBLIC_FROM} and the layers on top of it"
            elif top not in LAYERS or "/" not in target:
                yield f"{where}: includes are written from src: folder/file.h"
            elif LAYERS.index(top) > LAYERS.index(layer):
                yield f"{where} goes up from {layer}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    faults = list(faults_of(root))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
