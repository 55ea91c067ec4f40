//! Sizes in bytes as people write them: `2GiB`, `512 MiB`, `1.5G`, `1000000`.

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Bytes of a size, or `None` if it is none. `GiB`, `Gi` and `G` count in 1024s, `GB` in 1000s.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = number.replace('_', "");
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => KIB,
        "m" | "mi" | "mib" => MIB,
        "g" | "gi" | "gib" => GIB,
        "t" | "ti" | "tib" => TIB,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let fraction: f64 = number.parse().ok().filter(|_| factor > 1)?;
    let bytes = fraction * factor as f64;
    // Past 2^53 the product is no longer exact; nobody has that much memory.
    (bytes.is_finite() && (0.0..9e15).contains(&bytes)).then_some(bytes.round() as u64)
}

/// A size in its largest exact binary unit; [`parse_size`] gives the same number back.
pub fn format_size(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// A size to be read by people: at most two decimals.
pub fn human_size(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit {
            let value = bytes as f64 / unit as f64;
            return if bytes.is_multiple_of(unit) { format!("{value} {name}") } else { format!("{value:.2} {name}") };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1000000", Some(1_000_000)),
            ("1_000", Some(1_000)),
            ("1KiB", Some(1024)),
            ("1kb", Some(1000)),
            ("512 MiB", Some(512 << 20)),
            ("2GiB", Some(2 << 30)),
            (" 2 g ", Some(2 << 30)),
            ("2GB", Some(2_000_000_000)),
            ("1.5GiB", Some(3 << 29)),
            ("1Ti", Some(1 << 40)),
            ("12 apples", None),
            ("", None),
            ("GiB", None),
            ("-1GiB", None),
            ("1.5", None),
            ("1.2.3G", None),
            ("1e3", None),
            ("99999999999999999999", None),
            ("99999999999T", None),
            ("nan GiB", None),
            ("１GiB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn formatted_sizes_read_back() {
        for bytes in [0, 1, 1023, 1024, 1025, 1 << 20, 3 << 29, 1 << 30, (1 << 30) + 1, 5 << 40] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        assert_eq!(human_size(3 << 29), "1.50 GiB");
    }
}
