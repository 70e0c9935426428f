import ast
from pathlib import Path

import ovseg_cli

PACKAGE = Path(ovseg_cli.__file__).parent
LAYERS = [
    {"errors"},
    {"structures", "recipe", "storage", "run_lock"},
    {"run", "device", "torchvision_ops", "progress", "upsampling", "downloads", "video_frames"},
    {"ensemble", "cosine_logits"},
    {"classification", "inference"},
    {
        "clip",
        "vocabulary",
        "datasets",
        "losses",
        "metrics",
        "training",
        "rendering",
        "image_sources",
        "writers",
    },
    {"proposers", "mask_encoders", "report"},
    {"checkpoints"},
    {"segmenter"},
    {"mining", "export"},
    {"stages", "doctor"},
    {"cli_options", "cli_output", "cli_consent"},
    {"cli_models", "cli_datasets", "cli_doctor", "cli_export"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SAME_LEVEL = {("losses", "training"), ("storage", "recipe")}


def part_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path):
    package = ["ovseg_cli", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            full = base + (node.module.split(".") if node.module else [])
            names = [full] if len(full) > 1 else [[*full, a.name] for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "ovseg_cli":
            names = [["ovseg_cli", alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        yield from (name for name in names)


def modules():
    """The package's own; an installed one has the recipes' studies in it, which only call it."""
    found = (path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")
    return sorted(path for path in found if part_of(path) != "recipes")


def test_every_module_has_a_layer():
    unknown = {part_of(path) for path in modules()} - set(LEVEL) - {"__init__"}
    assert not unknown


def test_imports_go_one_way():
    upward = []
    for path in modules():
        own = part_of(path)
        for name in imported_parts(path):
            if name[0] != "ovseg_cli" or len(name) < 2 or name[1] in (own, "__init__"):
                continue
            allowed = LEVEL[name[1]] < LEVEL[own] or (own, name[1]) in SAME_LEVEL
            if not allowed:
                upward.append(f"{path.relative_to(PACKAGE)} imports {'.'.join(name)}")
    assert not upward


def test_only_the_clip_package_imports_open_clip():
    importers = {
        part_of(path)
        for path in modules()
        for name in imported_parts(path)
        if name[0] in ("open_clip", "timm")
    }
    assert importers <= {"clip"}
