"Packaging: everything is said in settings.ini, the file that nbdev reads too."

import re, shlex
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
lib, newest = settings["lib_path"], 14
minor = int(settings["min_python"].split(".")[1])


def requirements(key):
    return settings.get(key, "").split()


# Pictures of the README stand in the repository; on a package index they need their full address.
readme = (
    re.sub(
        r"(!\[[^]]*\]\()(?!https?:)",
        rf"\1{settings['git_url']}/raw/{settings['branch']}/",
        Path("README.md").read_text(encoding="utf-8"),
    )
    if Path("README.md").exists()
    else ""
)

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme,
    long_description_content_type="text/markdown",
    keywords=settings["keywords"],
    url=settings["git_url"],
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{n}" for n in range(minor, newest + 1)),
    ],
    # This is the default, but said: then an editable install is a line in a .pth file. Otherwise it is a finder that
    # comes last, and `import peft_viz` in the folder above the clone finds the clone, as an empty namespace.
    package_dir={"": "."},
    packages=find_packages(include=[lib, lib + ".*"]),
    package_data={lib: ["views/static/**", "zoo/tiny/**", "py.typed", "*.pyi"]},
    python_requires=">=" + settings["min_python"],
    install_requires=requirements("requirements"),
    extras_require={"smollm2": requirements("smollm2_requirements")},
    entry_points={
        "console_scripts": shlex.split(settings.get("console_scripts", "")),
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
)
