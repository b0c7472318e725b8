use super::*;

/// Three clouds of 40 points in five dimensions.
fn clouds() -> Vec<f32> {
    let noise = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
    (0..600).map(|i| if i / 5 % 3 == i % 5 { 10.0 + noise(i) } else { noise(i) }).collect()
}

const SETTINGS: Tsne = Tsne { perplexity: 10.0, iterations: 300, early_exaggeration: 12.0 };

#[test]
fn clusters_stay_separate() {
    let values = clouds();
    let map = SETTINGS.run(Rows::new(&values, 5).expect("sound")).expect("a map").projection;
    let distance = |a: usize, b: usize| f32::hypot(map[a][0] - map[b][0], map[a][1] - map[b][1]);
    for i in 0..120 {
        let nearest = (0..120).filter(|&j| j != i).min_by(|&a, &b| distance(i, a).total_cmp(&distance(i, b)));
        assert_eq!(nearest.map(|j| j % 3), Some(i % 3), "point {i}");
    }
    let mean: f32 = map.iter().map(|p| p[0]).sum::<f32>() / 120.0;
    assert!(mean.abs() < 1e-3, "centred: {mean}");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let values = clouds();
    let rows = Rows::new(&values, 5).expect("sound");
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| SETTINGS.run(rows).expect("a map"))
    };
    let (one, three) = (on(1), on(3));
    assert_eq!(one.projection, three.projection);
    assert_eq!(one.kl_divergence.to_bits(), three.kl_divergence.to_bits());
}

#[test]
fn gradient_matches_the_divergence() {
    let values = clouds();
    let found = neighbours(Rows::new(&values, 5).expect("sound"), 30).expect("neighbours");
    let p = affinities(&found, 10.0);
    let y: Vec<[f32; 2]> =
        (0..120).map(|i| [(i as f32 * 0.9).sin() * 3.0, (i as f32 * 0.4).cos() * 2.0]).collect();
    let mut force = vec![[0.0; 2]; 120];
    let z = repulsion(&y, &mut force);
    attract(&p, &y, 1.0, z as f32, &mut force);
    for (i, c) in [(0, 0), (17, 1), (119, 0)] {
        let moved = |by: f32| {
            let mut y = y.clone();
            y[i][c] += by;
            kl(&p, &y)
        };
        let difference = (moved(0.01) - moved(-0.01)) / 0.02;
        let gradient = 4.0 * f64::from(force[i][c]);
        assert!(
            (gradient - difference).abs() < 1e-3 * difference.abs() + 1e-6,
            "{gradient} for {difference}"
        );
    }
}

#[test]
fn equal_rows_give_finite_results() {
    let mut values = clouds();
    let (first, second) = values.split_at_mut(5);
    second[..5].copy_from_slice(first);
    let map = SETTINGS.run(Rows::new(&values, 5).expect("sound")).expect("a map");
    assert!(map.kl_divergence.is_finite() && map.projection.iter().flatten().all(|x| x.is_finite()));
    // With half of the rows equal, there are more equal distances than the perplexity has neighbours.
    values[..300].fill(1.0);
    let map = SETTINGS.run(Rows::new(&values, 5).expect("sound")).expect("a map");
    assert!(map.kl_divergence.is_finite() && map.projection.iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn perplexity_must_be_below_a_third_of_the_images() {
    assert!(Tsne { perplexity: 33.3, ..SETTINGS }.fits(100).is_ok());
    let e = Tsne { perplexity: 34.0, ..SETTINGS }.fits(100).expect_err("too large");
    assert_eq!(e.to_string(), "--perplexity 34: must be below a third of the 100 images");
}
