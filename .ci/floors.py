"""Prints each dependency of pyproject.toml pinned to its floor, as pip constraints."""

import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({item for group in groups for item in group if ">=" in item}):
    print(requirement.replace(">=", "=="))
