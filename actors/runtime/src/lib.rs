//! millstream's pipelines: supervised stages, dynamic batching, dead letters.
