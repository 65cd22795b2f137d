#!/usr/bin/env python3
"""Prints 2,000 sentences out of the language reference that comes with Python, one a line, in the order of its text."""

import pydoc_data.topics
import re

SENTENCES = 2000

paragraphs = re.split(r"\n\s*\n", "\n\n".join(pydoc_data.topics.topics.values()))
prose = (" ".join(p.split()) for p in paragraphs if not re.search(r"^\s*(>>>|\.\.\.|\||\S+ +::=)", p, re.MULTILINE))
sentences = (s for p in prose for s in re.split(r"(?<=[.!?])\s+(?=[A-Z\"(])", p) if len(s.split()) > 2 and s[-1] in ".!?:")
print("\n".join([s for s, _ in zip(sentences, range(SENTENCES))]))
