//! Colours that people with any colour vision can tell apart, and colour scales for when there are too many
//! classes.

/// Colours for up to ten classes: M. A. Petroff, *Accessible color sequences for data visualization*, arXiv
/// 2107.02270, chosen there for the distance between all pairs under the common colour-vision deficiencies,
/// on white. Figures never rely on colours alone: clusters carry numbers.
const CLASSES: [&str; 10] = [
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581",
    "#92dadd",
];

/// Colours of methods: Okabe and Ito, *Color Universal Design*, 2008, without its yellow, which is too light
/// for lines.
pub const METHODS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];

/// Dash patterns that go with the colours of methods, so that figures can be read in greyscale.
const DASHES: [&str; 4] = ["", "4 1.5", "1.2 1.2", "5 1.5 1.2 1.5"];

/// The most classes that have colours of their own.
pub const MAX_CLASSES: usize = CLASSES.len();

/// Returns the colour of a class; with more than [`MAX_CLASSES`] classes, colours run along a scale.
pub fn class(k: usize, classes: usize) -> String {
    match classes {
        ..=MAX_CLASSES => CLASSES[k].into(),
        _ => viridis(k as f64 / (classes - 1) as f64),
    }
}

/// Returns the colour and the dash pattern of the n-th method.
pub fn method(n: usize) -> (&'static str, &'static str) {
    (METHODS[n % METHODS.len()], DASHES[n % DASHES.len()])
}

/// Returns Matplotlib's viridis at `t` in 0–1, interpolated between its colours at multiples of 1/9.
pub fn viridis(t: f64) -> String {
    const STOPS: [[f64; 3]; 10] = [
        [68.0, 1.0, 84.0],
        [72.0, 40.0, 120.0],
        [62.0, 73.0, 137.0],
        [49.0, 104.0, 142.0],
        [38.0, 130.0, 142.0],
        [31.0, 158.0, 137.0],
        [53.0, 183.0, 121.0],
        [109.0, 205.0, 89.0],
        [180.0, 222.0, 44.0],
        [253.0, 231.0, 37.0],
    ];
    between(&STOPS, t)
}

/// Returns a colour from white to dark blue at `t` in 0–1, for shares (ColorBrewer's Blues).
pub fn blues(t: f64) -> String {
    const STOPS: [[f64; 3]; 9] = [
        [255.0, 255.0, 255.0],
        [222.0, 235.0, 247.0],
        [198.0, 219.0, 239.0],
        [158.0, 202.0, 225.0],
        [107.0, 174.0, 214.0],
        [66.0, 146.0, 198.0],
        [33.0, 113.0, 181.0],
        [8.0, 81.0, 156.0],
        [8.0, 48.0, 107.0],
    ];
    between(&STOPS, t)
}

/// Interpolates linearly between equally spaced colours.
fn between(stops: &[[f64; 3]], t: f64) -> String {
    let at = t.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let low = (at as usize).min(stops.len() - 2);
    let part = at - low as f64;
    let [r, g, b] =
        std::array::from_fn(|c| (stops[low][c] + part * (stops[low + 1][c] - stops[low][c])).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts `#rrggbb` to linear RGB.
    fn linear(hex: &str) -> [f64; 3] {
        let byte = |i: usize| f64::from(u8::from_str_radix(&hex[i..i + 2], 16).expect("a colour")) / 255.0;
        [1, 3, 5].map(byte).map(|v| if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055f64).powf(2.4) })
    }

    fn times(m: [[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
        m.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
    }

    /// Converts linear RGB to CIELAB (D65).
    fn lab(rgb: [f64; 3]) -> [f64; 3] {
        let xyz = times(
            [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
            rgb.map(|v| v.clamp(0.0, 1.0)),
        );
        let f = |t: f64| if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
        let [x, y, z] = [f(xyz[0] / 0.9505), f(xyz[1]), f(xyz[2] / 1.089)];
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    /// Returns the smallest distance between any two of the colours in CIELAB.
    fn closest(colours: &[&str], seen: [[f64; 3]; 3]) -> f64 {
        let labs: Vec<_> = colours.iter().map(|c| lab(times(seen, linear(c)))).collect();
        let distance =
            |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let pairs = (0..labs.len())
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| distance(labs[i], labs[j]));
        pairs.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn colours_differ_under_every_colour_vision() {
        // The matrices for complete deficiencies are those of Machado, Oliveira and Fernandes, IEEE TVCG
        // 15(6), 2009, for linear RGB.
        let full = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let protan = [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ];
        let deutan = [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ];
        let tritan = [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ];
        for seen in [full, protan, deutan, tritan] {
            let (classes, methods) = (closest(&CLASSES, seen), closest(&METHODS, seen));
            // A distance of 2.3 is just noticeable.
            assert!(classes > 7.0 && methods > 10.0, "{classes} {methods}");
        }
    }

    #[test]
    fn scales_have_the_right_end_points() {
        assert_eq!([viridis(0.0), viridis(1.0)], ["#440154", "#fde725"]);
        assert_eq!([blues(0.0), blues(2.0)], ["#ffffff", "#08306b"]);
        assert_eq!(class(99, 100), "#fde725");
    }
}
