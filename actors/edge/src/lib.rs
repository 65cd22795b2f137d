//! Bounded edges between pipeline stages: queues with credits in records and bytes.
