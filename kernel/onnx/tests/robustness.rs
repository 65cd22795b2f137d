//! Broken files are errors: they neither panic nor make the reader allocate what the file does not hold.
#![allow(missing_docs)]

mod stub;

use millstream_graph::Registry;
use millstream_onnx::{LoadOptions, ValueKind, load, tensor_from_pb};
use proptest::prelude::*;
use std::{path::Path, sync::Arc};

fn fixtures(extension: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let paths = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    paths.filter(|p| p.extension().is_some_and(|e| e == extension)).map(|p| std::fs::read(p).unwrap()).collect()
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    for name in ["Add", "Sub", "Mul", "Relu", "LeakyRelu", "Identity", "Cast"] {
        registry.add(stub::schema("", name, &["alpha", "to"], &[]));
    }
    registry.add(stub::schema("", "If", &[], &["then_branch", "else_branch"]));
    registry
}

/// Loads; what comes out is whole, or an error that can be told.
fn survive(bytes: Vec<u8>, registry: &Registry) {
    match load(Arc::new(bytes), registry, &LoadOptions::default()) {
        Ok(model) => model.graph.verify().unwrap(),
        Err(e) => drop(e.to_string()),
    }
}

/// The greatest size of the process's address space so far, in KiB; 0 where the system does not tell.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn truncations_are_survived() {
    let (registry, before) = (registry(), peak());
    for bytes in fixtures("onnx") {
        for n in 0..bytes.len() {
            survive(bytes[..n].to_vec(), &registry);
        }
    }
    for bytes in fixtures("pb") {
        for n in 0..bytes.len() {
            for kind in [ValueKind::Tensor, ValueKind::Sequence, ValueKind::Optional] {
                drop(tensor_from_pb(&bytes[..n], kind));
            }
        }
    }
    // Other tests' threads map stacks and heaps in between, 64 MiB of address space each.
    assert!(peak() - before < 1 << 20, "more than 1 GiB was asked for");
}

#[test]
fn every_flipped_bit_is_survived() {
    let (registry, before) = (registry(), peak());
    for bytes in fixtures("onnx") {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            survive(flipped, &registry);
        }
    }
    assert!(peak() - before < 1 << 20, "more than 1 GiB was asked for");
}

proptest! {
    #[test]
    fn splices_are_survived(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..6)), 1..5),
    ) {
        let all = fixtures("onnx");
        let mut bytes = which.get(&all).clone();
        for (from, len, new) in edits {
            let from = from.index(bytes.len() + 1);
            let to = from + len.index(8.min(bytes.len() - from) + 1);
            bytes.splice(from..to.min(bytes.len()), new);
        }
        survive(bytes, &registry());
    }

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        survive(bytes.clone(), &registry());
        for kind in [ValueKind::Tensor, ValueKind::Sequence, ValueKind::Optional] {
            drop(tensor_from_pb(&bytes, kind));
        }
    }
}
