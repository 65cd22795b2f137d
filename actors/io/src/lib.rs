//! Sources and sinks of millstream's pipelines: files, lines, JSON lines.
