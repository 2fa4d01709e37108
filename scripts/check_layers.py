#!/usr/bin/env python3
"""Fails on any #include that the layer table of docs/architecture.md does not allow.

Also fails when src/CMakeLists.txt links a folder with another set of folders than the table says, when a
folder of src/ is missing from the table, and when the table itself has a cycle.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ALWAYS = {"base"}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.M)


def read_table():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- layers:begin -->(.*?)<!-- layers:end -->", text, re.S)
    if not match:
        sys.exit("check_layers: docs/architecture.md has no <!-- layers:begin --> table")
    table = {}
    for line in match.group(1).strip().splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        table[cells[0]] = {name.strip() for name in cells[1].split(",") if name.strip()}
    return table


def check_acyclic(table, errors):
    def visit(node, path):
        if node in path:
            errors.append("docs/architecture.md: cycle " + " -> ".join(path + [node]))
            return
        for dep in table.get(node, ()):
            visit(dep, path + [node])

    for node in table:
        visit(node, [])


def check_cmake(table, errors):
    text = (ROOT / "src" / "CMakeLists.txt").read_text(encoding="utf-8")
    linked = {}
    for call in re.findall(r"harrow_library\(([^)]*)\)", text):
        words = call.split()
        deps = []
        if "DEPENDS" in words:
            for word in words[words.index("DEPENDS") + 1:]:
                if word.isupper() and word in {"LIBS", "TEST_LIBS"}:
                    break
                deps.append(word)
        linked[words[0]] = set(deps) - ALWAYS
    for folder, deps in linked.items():
        allowed = table.get(folder)
        if allowed is None:
            errors.append(f"src/CMakeLists.txt: library {folder} is not in docs/architecture.md")
        elif deps != allowed:
            errors.append(f"src/CMakeLists.txt: {folder} links {sorted(deps)}, "
                          f"docs/architecture.md says {sorted(allowed)}")


def check_file(path, folder, allowed, folders, errors):
    for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        top = name.split("/")[0]
        where = f"{path.relative_to(ROOT)}: includes {name}"
        if folder in ("tools", "bindings"):
            if top in folders:
                errors.append(f"{where}; {folder}/ may include include/harrow only")
        elif folder == "include":
            if top in folders or ("/" in name and top != "harrow"):
                errors.append(f"{where}; public headers may include only the standard library and harrow/")
        elif top in folders and top not in allowed:
            errors.append(f"{where}; {folder} may include {sorted(allowed)}")


def main():
    errors = []
    table = read_table()
    folders = set(table)
    check_acyclic(table, errors)
    check_cmake(table, errors)
    checked = 0
    for base in ("src", "tools", "bindings", "include"):
        for path in sorted((ROOT / base).rglob("*")):
            if path.suffix not in (".h", ".cc", ".inc", ".def"):
                continue
            if base == "src":
                folder = path.relative_to(ROOT / "src").parts[0]
                if folder not in table:
                    errors.append(f"{path.relative_to(ROOT)}: folder {folder} is not in the table")
                    continue
                allowed = table[folder] | ALWAYS | {folder}
            else:
                folder, allowed = base, set()
            check_file(path, folder, allowed, folders, errors)
            checked += 1
    for error in errors:
        print(error)
    if checked == 0:
        sys.exit("check_layers: found no sources")
    print(f"check_layers: {checked} files, {len(errors)} violations")
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
