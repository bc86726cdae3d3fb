//! Amounts of memory as people write them.

/// Reads `512M`, `2G`, `1.5GiB` or a plain number of bytes; units are powers of 1024.
///
/// # Errors
/// What was found and what is expected, in words.
pub fn parse(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "found `{text}`; expected a number of bytes, or of K, M, G or T, such as 512M or 2G"
        )
    };
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let unit = unit.trim().to_ascii_uppercase();
    let unit = unit.strip_suffix('B').unwrap_or(&unit);
    let power = match unit.strip_suffix('I').unwrap_or(unit) {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(expected()),
    };
    let bytes = number * 1024_f64.powi(power);
    if (1.0..=u64::MAX as f64).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(expected())
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn amounts_with_and_without_units() {
        for (text, bytes) in [
            ("1", 1),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("2g", 2 << 30),
            ("2GB", 2 << 30),
            ("1.5K", 1536),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "0",
            "-1",
            "1X",
            "1.2.3",
            "lots",
            "nan",
            "1e9",
            "99999999999T",
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(&format!("found `{text}`")), "{message}");
        }
    }
}
