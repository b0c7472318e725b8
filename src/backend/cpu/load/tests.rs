//! Tests the loader against a direct implementation: pad with zeros, crop, flip, scale to 0–1, normalise,
//! mix.

use super::*;
use crate::backend::levels;
use crate::tensor::{read, zeros};

const SHAPE: [usize; 3] = [6, 5, 3];

fn image(seed: usize) -> Vec<u8> {
    (0..90).map(|i| ((i * 37 + seed * 101) % 256) as u8).collect()
}

/// Computes a pixel as torchvision does: zero padding of 4, crop at (4 + dy, 4 + dx), then the flip.
fn expected(v: &View, row: usize, col: usize, c: usize) -> f64 {
    let [height, width, channels] = SHAPE;
    let col = if v.flip { width - 1 - col } else { col };
    let (r, q) = (row as i32 + v.dy, col as i32 + v.dx);
    let inside = (0..height as i32).contains(&r) && (0..width as i32).contains(&q);
    let byte = if inside { v.image[(r as usize * width + q as usize) * channels + c] } else { 0 };
    (f64::from(byte) / 255.0 - [0.5, 0.4, 0.3][c]) / [0.2, 0.25, 0.3][c]
}

#[test]
fn crops_flips_mixes_and_normalises() {
    let images: Vec<Vec<u8>> = (0..9).map(image).collect();
    let offsets = [-4, 0, 3, 4, -1, 0, 2, -3, 1];
    let view = |n: usize| View {
        image: &images[n],
        stored: SHAPE,
        dy: offsets[n],
        dx: offsets[8 - n],
        flip: n.is_multiple_of(2),
    };
    let partner = [8, 0, 1, 2, 3, 4, 5, 6, 7];
    let lambda = [1.0, 0.0, 0.25, 0.5, 0.9, 1.0, 0.3, 0.6, 0.125];
    let x = zeros(&[9, 6, 5, 3]).expect("a tensor");
    let levels = levels(&[0.5, 0.4, 0.3], &[0.2, 0.25, 0.3]);
    // One patch in the middle, one at an edge, one that covers the whole image. An empty patch means
    // blending.
    let patch = |n: usize| match n {
        3 => Patch { top: 2, bottom: 5, left: 1, right: 3 },
        4 => Patch { top: 0, bottom: 6, left: 4, right: 5 },
        5 => Patch { top: 0, bottom: 6, left: 0, right: 5 },
        6 => Patch { top: 3, bottom: 3, left: 0, right: 5 },
        _ => Patch::default(),
    };
    let patches: Vec<Patch> = (0..9).map(patch).collect();
    forward(&x, SHAPE, &levels, view, &partner, &lambda, &patches).expect("loaded");
    for (at, x) in read(&x).expect("values").iter().enumerate() {
        let (n, row, col, c) = (at / 90, at / 15 % 6, at / 3 % 5, at % 3);
        let inside = (2..5).contains(&row) && (1..3).contains(&col);
        let l = match n {
            3 => f64::from(u8::from(!inside)),
            4 => f64::from(u8::from(col < 4)),
            5 => 0.0,
            _ => f64::from(lambda[n]),
        };
        let mixed = l * expected(&view(n), row, col, c)
            + (1.0 - l) * expected(&view(partner[n] as usize), row, col, c);
        assert!((f64::from(*x) - mixed).abs() < 1e-6, "{n} {row} {col} {c}: {x} {mixed}");
    }
}

#[test]
fn a_lambda_of_one_keeps_the_image() {
    let levels = levels(&[0.5; 3], &[0.25; 3]);
    let images = [image(1), image(2)];
    let view = |n: usize| View { image: &images[n], stored: SHAPE, dy: 0, dx: 0, flip: false };
    let x = zeros(&[2, 6, 5, 3]).expect("a tensor");
    forward(&x, SHAPE, &levels, view, &[1, 0], &[1.0, 1.0], &[Patch::default(); 2]).expect("loaded");
    let bytes = images.iter().flatten().map(|b| ((f64::from(*b) / 255.0 - 0.5) / 0.25) as f32);
    assert_eq!(read(&x).expect("values").to_vec(), bytes.collect::<Vec<_>>());
}

#[test]
fn one_image_is_written_as_in_a_batch() {
    let levels = levels(&[0.5, 0.4, 0.3], &[0.2, 0.25, 0.3]);
    let bytes = image(3);
    for (dy, dx, flip) in [(0, 0, false), (-2, 1, true), (4, -4, false), (1, 3, true)] {
        let view = View { image: &bytes, stored: SHAPE, dy, dx, flip };
        let x = zeros(&[1, 6, 5, 3]).expect("a tensor");
        forward(&x, SHAPE, &levels, |_| view, &[0], &[1.0], &[Patch::default()]).expect("loaded");
        let mut one = vec![f32::NAN; 90];
        view.write(5, &levels, &mut one);
        assert_eq!(read(&x).expect("values").to_vec(), one, "{dy} {dx} {flip}");
    }
}
