//! Tests `embed --project`: the map beside the features, its cache, and parameters that make no sense.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::refused;
use crate::fabricate::untrained;

fn file(m: &Value) -> Vec<u8> {
    let dir = Path::new(m["path"].as_str().unwrap()).parent().unwrap();
    fs::read(dir.join("features.safetensors")).unwrap()
}

#[test]
fn a_map_beside_the_features_the_same_on_any_number_of_threads() {
    let s = untrained();
    let plain = s.one("embed", "run -q");
    let tsne = "--project tsne --perplexity 5 --iterations 100 -q";
    let map = s.one("embed", &format!("run {tsne} --threads 1"));
    assert_eq!(
        map["params"]["project"],
        json!({"method": "tsne", "perplexity": 5.0, "iterations": 100, "early_exaggeration": 12.0})
    );
    assert!(map["metrics"]["kl_divergence"].as_f64().unwrap() > 0.0);
    assert_eq!(map["metrics"]["images"], 40);
    assert_eq!(map["inputs"], plain["inputs"], "the lineage is that of the features");
    let (with, without) = (file(&map), file(&plain));
    let (with, without) =
        (SafeTensors::deserialize(&with).unwrap(), SafeTensors::deserialize(&without).unwrap());
    for (name, tensor) in without.tensors() {
        assert_eq!(tensor, with.tensor(&name).unwrap(), "{name}");
    }
    assert_eq!(with.tensor("projection").unwrap().shape(), [40, 2]);

    let again = s.one("embed", &format!("run {tsne} --threads 3 --out elsewhere"));
    assert_eq!((&again["key"], file(&again)), (&map["key"], file(&map)));
}

#[test]
fn another_map_takes_the_features_that_are_there() {
    let s = untrained();
    let plain = s.one("embed", "run -q");
    let started = |m: &Value| fs::metadata(m["path"].as_str().unwrap()).unwrap().modified().unwrap();
    let at = started(&plain);
    let mut keys = vec![plain["key"].clone()];
    for flags in ["pca", "tsne --perplexity 5 --iterations 20", "tsne --perplexity 6 --iterations 20"] {
        let m = s.one("embed", &format!("run -q --project {flags}"));
        assert!(!keys.contains(&m["key"]));
        keys.push(m["key"].clone());
        assert_eq!(started(&plain), at, "the features were not made again");
    }
    // All four are separate results.
    assert_eq!(fs::read_dir(s.join("embeddings")).unwrap().count(), 4);
    let pca = s.one("embed", "run -q --project pca");
    assert_eq!(pca["key"], keys[1]);
    let share = pca["metrics"]["explained_variance_ratio"].as_array().unwrap();
    assert!(share.len() == 2 && share[0].as_f64() >= share[1].as_f64());
}

#[test]
fn senseless_parameters_are_refused_before_any_work() {
    let s = untrained();
    for (flags, why) in [
        ("--project tsne", "--perplexity 30: must be below a third of the 40 images"),
        ("--project tsne --perplexity NaN", "--perplexity NaN: must be at least 1"),
        ("--project tsne --perplexity 0", "--perplexity 0: must be"),
        ("--project tsne --perplexity -30", "--perplexity -30: must be"),
        ("--project tsne --perplexity inf", "--perplexity inf: must be"),
        ("--project tsne --perplexity 1e300", "must be below a third"),
        ("--project tsne --early-exaggeration 0.5", "--early-exaggeration 0.5: must be between 1"),
        ("--project pca --perplexity 5", "--perplexity: does nothing without --project tsne"),
        ("--iterations 5", "--iterations: does nothing without --project tsne"),
    ] {
        refused(s.tool("embed", &format!("run {flags}")).assert(), why);
    }
    // Images of no data set cannot be mapped.
    fs::create_dir(s.join("photographs")).unwrap();
    image::RgbImage::new(9, 9).save(s.join("photographs/a.png")).unwrap();
    let images = s.tool("embed", "run --images photographs --perplexity 5").assert();
    refused(images, "--perplexity: does nothing without --project tsne");
    // clap's own messages have more than one line.
    for (flags, why) in [
        ("tsne --perplexity 5 --iterations 0", "'0' for '--iterations <N>': expected a whole number from 1"),
        ("umap", "invalid value 'umap' for '--project <METHOD>'"),
    ] {
        let said = s.said("embed", &format!("run --project {flags}"), 2);
        assert!(said.contains(why), "{flags}: {said}");
    }
    assert!(!s.join("embeddings").exists());
}

#[test]
fn missing_splits_are_refused_before_any_work() {
    let s = untrained();
    for more in ["", "--dry-run"] {
        let asked = s.tool("embed", &format!("run --splits train,val,test -q --out e {more}")).assert();
        refused(asked, "--splits train,val,test: ");
    }
    assert!(!s.join("e").exists());
}
