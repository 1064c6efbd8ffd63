//! Colours by age: the oldest layer is dark violet, the newest warm.
//!
//! The ramp is perceptually even, and its lightness grows all the way, so that it can be read without telling red from
//! green, and in grey. (Samples of `plasma`, from matplotlib, which is in the public domain under CC0.) On a light page its
//! lightest end is left out, on a dark one its darkest, so that every layer stands out from the ground.

/// Red, green and blue.
pub type Rgb = [u8; 3];

const RAMP: [Rgb; 16] = [
    [0x0d, 0x08, 0x87],
    [0x33, 0x05, 0x97],
    [0x50, 0x02, 0xa2],
    [0x6a, 0x00, 0xa8],
    [0x84, 0x05, 0xa7],
    [0x9c, 0x17, 0x9e],
    [0xb1, 0x2a, 0x90],
    [0xc3, 0x3d, 0x80],
    [0xd3, 0x51, 0x71],
    [0xe1, 0x64, 0x62],
    [0xed, 0x79, 0x53],
    [0xf6, 0x8f, 0x44],
    [0xfc, 0xa6, 0x36],
    [0xfe, 0xc0, 0x29],
    [0xf9, 0xdc, 0x24],
    [0xf0, 0xf9, 0x21],
];

/// What colours lie on, and the part of the ramp that is used on it, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A light page.
    Light,
    /// A dark page.
    Dark,
    /// A terminal, which may be either.
    Unknown,
}

impl Ground {
    fn ramp(self) -> (usize, usize) {
        match self {
            Ground::Light => (30, 730),
            Ground::Dark => (300, 980),
            Ground::Unknown => (200, 850),
        }
    }
}

/// The colour of the layer at `place`, from the oldest, of `count` that have one.
pub fn shade(place: usize, count: usize, ground: Ground) -> Rgb {
    let (from, to) = ground.ramp();
    let steps = count.saturating_sub(1);
    // A single layer is the newest one.
    let at = ((to - from) * place.min(steps)).checked_div(steps).map_or(to, |above| from + above);
    let scaled = at * (RAMP.len() - 1);
    let (index, part) = (scaled / 1000, scaled % 1000);
    let (low, high) = (RAMP[index], RAMP[(index + 1).min(RAMP.len() - 1)]);
    std::array::from_fn(|i| {
        let mixed = (usize::from(low[i]) * (1000 - part) + usize::from(high[i]) * part) / 1000;
        u8::try_from(mixed).unwrap_or(u8::MAX)
    })
}

/// As CSS and SVG write it.
pub fn hex([red, green, blue]: Rgb) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// How many colours a terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// None are wanted, or there are none.
    None,
    /// 256: a cube of 6 x 6 x 6 among them.
    Palette,
    /// All of them.
    True,
}

/// The escape sequence that begins text of this colour.
pub fn escape(colour: Rgb, depth: Depth) -> String {
    let [red, green, blue] = colour;
    match depth {
        Depth::None => String::new(),
        Depth::True => format!("\u{1b}[38;2;{red};{green};{blue}m"),
        Depth::Palette => {
            let [red, green, blue] = colour.map(|part| (u16::from(part) * 5 + 127) / 255);
            format!("\u{1b}[38;5;{}m", 16 + 36 * red + 6 * green + blue)
        }
    }
}

/// The escape sequence that ends it.
pub fn reset(depth: Depth) -> &'static str {
    if depth == Depth::None { "" } else { "\u{1b}[0m" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The relative luminance of WCAG 2, near enough to compare.
    fn lightness([red, green, blue]: Rgb) -> f64 {
        let linear = |part: u8| (f64::from(part) / 255.0).powf(2.2);
        0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    }

    #[test]
    fn newer_is_lighter() {
        for ground in [Ground::Light, Ground::Dark, Ground::Unknown] {
            // Of very many, neighbours may be alike: there are not so many colours.
            for (count, apart) in [(2, 1), (5, 1), (40, 1), (251, 4)] {
                let shades: Vec<_> = (0..count).map(|place| shade(place, count, ground)).collect();
                let pairs = shades.iter().zip(&shades[apart..]);
                assert!(
                    pairs.into_iter().all(|(old, new)| lightness(*old) < lightness(*new)),
                    "{ground:?} {count}"
                );
            }
        }
    }

    #[test]
    fn every_shade_stands_out_from_its_ground() {
        for (ground, behind) in [(Ground::Light, [0xff, 0xff, 0xff]), (Ground::Dark, [0x16, 0x1a, 0x22])] {
            for place in 0..251 {
                let (one, other) = (lightness(shade(place, 251, ground)), lightness(behind));
                let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                assert!(contrast >= 1.9, "{place}: {contrast}");
            }
        }
    }

    #[test]
    fn terminals_get_what_they_know() {
        assert_eq!(escape([255, 0, 95], Depth::Palette), "\u{1b}[38;5;198m");
        assert_eq!(escape([1, 2, 3], Depth::True), "\u{1b}[38;2;1;2;3m");
        assert_eq!(escape([1, 2, 3], Depth::None), "");
    }
}
