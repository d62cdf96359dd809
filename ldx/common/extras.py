"""Packages that not everybody needs, and how to install them."""

EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "pyarrow", "datasets", "openai", "httpx2"), "prep"),
    **{name: name for name in ("vllm", "ray", "rax", "scann", "wandb")},
}
"""The extra of ldx (pyproject.toml) that a package comes with."""


def how_to_install(package: str) -> str:
    """The command that installs a package of an extra."""
    return f"pip install {package}, or '.[{EXTRAS[package]}]' in ldx's folder"
