//! Times and sizes as people write them: `"5 ms"`, `"256 MiB"`.

use std::time::Duration;

/// A number and the unit behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// `us`, `ms`, `s`, `min` and `h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// `B`, and powers of 1024 (`KiB`, `MiB`, `GiB`) and of 1000 (`kB`, `MB`, `GB`).
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1048576.0,
        "GiB" => 1073741824.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    // The bound keeps the product exact in a float.
    Some((number * factor).round()).filter(|bytes| *bytes <= 2f64.powi(53)).map(|bytes| bytes as u64)
}

/// A size with the largest unit of which there is one.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.2} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_shown() {
        assert_eq!(duration("5ms"), Some(Duration::from_millis(5)));
        assert_eq!(duration("1.5 s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2 min"), Some(Duration::from_secs(120)));
        assert_eq!([duration("5"), duration("-5 ms"), duration("ms"), duration("5 parsecs"), duration("9e9h")], [None; 5]);
        assert_eq!([bytes("256 MiB"), bytes("1.5 kB"), bytes("7B")], [Some(256 << 20), Some(1500), Some(7)]);
        assert_eq!([bytes("7"), bytes("7 mb"), bytes("999999999999 GiB")], [None; 3]);
        assert_eq!([show_bytes(256 << 20), show_bytes(1500), show_bytes(7)], ["256 MiB", "1.46 KiB", "7 B"]);
    }
}
