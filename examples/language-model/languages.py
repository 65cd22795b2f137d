"""The languages that the model names, and how a file of a package gets its label for training.

A label comes from the file's name, and where the name is shared by several languages (`.h`, `.ts`, `.pl`,
`.t`, scripts without an extension) from the content or from the rest of the package. A file that
cannot be labelled honestly is left out.
"""

import re

LABELS = (
    "c", "cmake", "cpp", "csharp", "css", "go", "haskell", "html", "java", "javascript", "json", "kotlin", "lua",
    "makefile", "markdown", "ocaml", "perl", "php", "python", "ruby", "rust", "shell", "sql", "swift", "toml",
    "typescript", "xml", "yaml",
)  # fmt: skip

NAMES = {
    "CMakeLists.txt": "cmake", "Makefile": "makefile", "makefile": "makefile", "GNUmakefile": "makefile",
    "Makefile.am": "makefile", "Rakefile": "ruby", "Gemfile": "ruby", "Cargo.toml.orig": "toml", "Cargo.lock": "toml",
    "poetry.lock": "toml", "Pipfile": "toml", "pom.xml": "xml",
}  # fmt: skip

EXTENSIONS = {
    "c": "c", "cmake": "cmake", "cc": "cpp", "cpp": "cpp", "cxx": "cpp", "hpp": "cpp", "hxx": "cpp", "hh": "cpp",
    "cs": "csharp", "css": "css", "go": "go", "hs": "haskell", "html": "html", "htm": "html", "java": "java",
    "js": "javascript", "mjs": "javascript", "cjs": "javascript", "jsx": "javascript", "json": "json", "kt": "kotlin",
    "kts": "kotlin", "lua": "lua", "rockspec": "lua", "mk": "makefile", "md": "markdown", "markdown": "markdown",
    "ml": "ocaml", "mli": "ocaml", "pm": "perl", "pl": "perl", "t": "perl", "php": "php", "py": "python",
    "pyi": "python", "rb": "ruby", "gemspec": "ruby", "rake": "ruby", "rs": "rust", "sh": "shell",
    "bash": "shell", "sql": "sql", "swift": "swift", "toml": "toml", "ts": "typescript", "tsx": "typescript",
    "mts": "typescript", "xml": "xml", "xsd": "xml", "xsl": "xml", "svg": "xml", "ui": "xml", "yml": "yaml",
    "yaml": "yaml", "h": "header",
}  # fmt: skip

# Written by a build tool, not by people, and the same in every package that uses the tool.
GENERATED_NAMES = re.compile(
    r"^(configure|config\.(guess|sub|rpath)|ltmain\.sh|install-sh|depcomp|missing|compile|test-driver|ylwrap|mkinstalldirs|"
    r"libtool|autogen\.sh|aclocal.*|package-lock\.json)$"
)
GENERATED_CONTENT = re.compile(rb"generated (from \S+ )?by (automake|GNU Autoconf|configure)", re.I)

# Folders that hold other packages' sources, or a distribution's own files.
FOREIGN_FOLDERS = {
    "vendor", "third_party", "third-party", "thirdparty", "3rdparty", "node_modules", "external", "extern", "deps",
    "debian", ".pc", "bower_components", "_vendor", "vendored",
}  # fmt: skip

SHEBANG = re.compile(rb"^#![^\n]*?\b(bash|dash|sh|zsh|ksh|perl|python[23]?|ruby|lua|node|php)\b")
INTERPRETERS = {
    b"bash": "shell", b"dash": "shell", b"sh": "shell", b"zsh": "shell", b"ksh": "shell", b"perl": "perl",
    b"ruby": "ruby", b"lua": "lua", b"node": "javascript", b"php": "php",
}  # fmt: skip
PERL = re.compile(rb"^#![^\n]*perl|^\s*(use|package|require) [\w:.]+|^\s*my [$@%(]|^=(head|pod)", re.M)
CPP_HEADER = re.compile(
    rb"^\s*(class \w+|namespace \w*|template\s*<|using \w|public:|private:|protected:)|#include <[a-z_]+>|std::\w|constexpr ", re.M
)
FLOW = re.compile(rb"@(no)?flow\b|^import type ", re.M)


def wanted(path):
    """Whether a file of an archive may be looked at; `path` is relative to the package's root."""
    *folders, name = path.split("/")
    return not GENERATED_NAMES.match(name) and not any(folder.lower() in FOREIGN_FOLDERS for folder in folders)


def candidate(path):
    """The label that the name alone suggests, `header` or `script` where the content decides, or None."""
    name = path.rsplit("/", 1)[-1]
    if name in NAMES:
        return NAMES[name]
    if "." not in name.lstrip("."):
        return "script"
    return EXTENSIONS.get(name.rsplit(".", 1)[-1])


def label(suggested, head, package_has_c, package_has_cpp):
    """The label of a file, from what its name suggests and from its first bytes; None leaves it out."""
    if len(head.strip()) < 40 or b"\0" in head or GENERATED_CONTENT.search(head[:4096]):
        return None
    if suggested == "script":
        found = SHEBANG.match(head)
        if not found:
            return None
        return INTERPRETERS.get(found.group(1), "python")
    if suggested == "header":
        if CPP_HEADER.search(head):
            return "cpp" if package_has_cpp else None
        return "c" if package_has_c and not package_has_cpp else None
    if suggested == "perl" and not PERL.search(head):
        return None
    if suggested == "typescript" and head.lstrip()[:1] == b"<":
        return None
    if suggested == "javascript" and FLOW.search(head):
        return None
    if suggested == "php" and b"<?" not in head[:2048]:
        return None
    if suggested == "html" and (b"<" not in head[:2048] or head.lstrip()[:5] == b"<?xml"):
        return None
    if suggested == "xml" and b"<" not in head[:2048]:
        return None
    return suggested
