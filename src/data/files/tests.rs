//! Compares files of all formats with the results of Pillow and torchvision, from
//! `scripts/pytorch/fixture_images.py`.

use std::path::PathBuf;

use safetensors::SafeTensors;

use super::decode::{self, MAX_PIXELS, decode};
use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// Returns the largest and the mean absolute difference of bytes from Pillow's.
fn difference(found: &[u8], truth: &[u8]) -> (u8, f64) {
    assert_eq!(found.len(), truth.len());
    let differences = || found.iter().zip(truth).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences().map(u64::from).sum();
    (differences().max().unwrap_or(0), sum as f64 / found.len() as f64)
}

#[test]
fn pixels_match_pillow() {
    crate::simd::for_each_isa(|_| check_pixels());
}

fn check_pixels() {
    let expected = fs::read(fixtures().join("expected.safetensors")).expect("the fixture");
    let expected = SafeTensors::deserialize(&expected).expect("tensors");
    let mut all = blake3::Hasher::new();
    let mut names: Vec<&str> = expected.names().into_iter().collect();
    names.sort_unstable();
    for name in names {
        let (file, way) = name.split_once('@').unwrap_or((name, "crop"));
        let bytes = fs::read(fixtures().join(file)).expect("an image");
        let image = decode(&bytes, MAX_PIXELS).expect(name);
        let truth = expected.tensor(name).expect("named");
        let &[height, width, 3] = truth.shape() else { panic!("{name}: not (H, W, 3)") };
        let found = match way {
            "whole" => {
                assert_eq!((image.width() as usize, image.height() as usize), (width, height), "{name}");
                image.into_raw()
            }
            way => {
                let preprocess = Preprocess { size: height, resize: None, squash: way == "squash" };
                let mut out = vec![0; height * width * 3];
                preprocess.apply(&image, &mut out);
                out
            }
        };
        all.update(&found);
        let (most, mean) = difference(&found, truth.data());
        // Decoders of lossy formats differ in rounding and in the upsampling of chroma.
        let is_lossy = bytes.starts_with(b"\xff\xd8") || file == "lossy.webp";
        match (is_lossy, way) {
            (false, "whole") => assert_eq!(most, 0, "{name}"),
            // For some sizes Pillow 13 resizes rows before columns, and rounds in between.
            (false, _) => assert!(most <= 1, "{name}: {most}"),
            (true, "whole") => assert!(most <= 8 && mean < 0.6, "{name}: {most}, {mean:.2}"),
            (true, _) => assert!(most <= 3 && mean < 0.5, "{name}: {most}, {mean:.2}"),
        }
    }
    // The pixels are the same on every machine. If an update of a decoder changes them, raise SEMANTICS in
    // decode.rs.
    let pinned = fs::read_to_string(fixtures().join("decoded.blake3"))
        .expect("the version of the decoding and the hash of its pixels");
    assert_eq!(format!("{} {}", decode::SEMANTICS, all.finalize().to_hex()), pinned.trim());
}

/// The JPEG decoder uses vector instructions where available; it must return the same bytes without them.
#[test]
fn jpegs_are_the_same_without_vector_instructions() {
    use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
    for name in ["444.jpg", "420.jpg", "422.JPEG", "progressive.jpg", "grey.jpg", "cmyk.jpg"] {
        let bytes = fs::read(fixtures().join(name)).expect("an image");
        let [fast, plain] = [true, false].map(|fast| {
            let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
            let options = options.set_use_unsafe(fast);
            zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(&bytes), options).decode().expect(name)
        });
        assert!(fast == plain, "{name}");
        let image = decode(&bytes, MAX_PIXELS).expect(name).into_raw();
        assert!(image == plain, "{name}: as `image` decodes it");
    }
}

#[test]
fn sizes_match_torchvision() {
    // Resize(7) of 10×3 has int(7·10/3) = 23 columns, of which CenterCrop cuts off round(16/2) = 8 on the
    // left.
    let image = image::RgbImage::from_fn(10, 3, |x, _| image::Rgb([(x * 25) as u8; 3]));
    let preprocess = Preprocess { size: 7, resize: None, squash: false };
    let mut crop = vec![0; 7 * 7 * 3];
    preprocess.apply(&image, &mut crop);
    assert!(crop[..21].is_sorted() && crop[0] > 70 && crop[20] < 160, "{:?}", &crop[..21]);
    // Larger squares are stored, and the network sees a part of them.
    let preprocess = Preprocess { size: 7, resize: Some(9), squash: true };
    let mut whole = vec![0; 9 * 9 * 3];
    preprocess.apply(&image, &mut whole);
    assert!(whole[0] < 20 && whole[26] > 205);
    assert_eq!(
        (preprocess.stored(), preprocess.to_string().as_str()),
        (9, "7×7 crops of 9×9, resized without keeping the aspect ratio")
    );
}

#[test]
fn errors_describe_unreadable_files() {
    let file = |name: &str| fs::read(fixtures().join(name)).expect("an image");
    let mut torn = file("420.jpg");
    torn.truncate(torn.len() / 2);
    let mut scans = file("progressive.jpg");
    scans.truncate(scans.len() * 9 / 10);
    let png = file("rgb.png");
    // Cameras may append data to a picture, with bytes that look like markers.
    let mut trailer = file("420.jpg");
    trailer.extend_from_slice(b"MotionPhoto\xff\xda\x00\x08\xff\xd9\xff\xda");
    let whole = |bytes: &[u8]| decode(bytes, MAX_PIXELS).expect("an image");
    assert_eq!(whole(&trailer), whole(&file("420.jpg")));
    let mut changed = png.clone();
    changed[2000] ^= 0x55;
    let cases = [
        (vec![], "the file is empty"),
        (b"not an image\n".to_vec(), "not an image in a supported format"),
        (torn, "truncated"),
        (scans, "truncated"),
        (png[..1000].to_vec(), ""),
        (changed, ""),
        (file("24.bmp")[..3000].to_vec(), ""),
        (file("animated.gif")[..300].to_vec(), ""),
        (file("lossless.webp")[..2000].to_vec(), ""),
    ];
    for (bytes, why) in cases {
        let said = decode(&bytes, MAX_PIXELS).expect_err(why).to_string();
        assert!(said.contains(why) && !said.contains('\n'), "{said}");
    }
    let large = decode(&png, 2459).expect_err("too large");
    assert_eq!(large.remedy(), Some("raise --max-pixels"));
    let said = large.to_string();
    assert!(said.contains("60×41") && said.contains("--max-pixels 2459"), "{said}");
    assert!(decode(&png, 2460).is_ok());
}

#[test]
fn images_are_recognised_by_extension() {
    for name in ["a.jpg", "a.JPEG", "b.c.PnG", ".png", "x.webp", "x.gif", "x.tiff", "x.PPM"] {
        assert!(decode::is_image(name), "{name}");
    }
    for name in ["jpg", "a.txt", "a.jpg.txt", "._a.jpg", "Thumbs.db", "a.", ""] {
        assert!(!decode::is_image(name), "{name}");
    }
}

#[test]
fn tree_hash_covers_paths_and_contents() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("b"), "two").expect("written");
    fs::create_dir(dir.path().join("a")).expect("made");
    fs::write(dir.path().join("a/c"), "one").expect("written");
    let tree = || {
        let paths = vec!["b".to_owned(), "a/c".to_owned()];
        tree::Tree::of(dir.path(), paths, || ())
    };
    let first = tree();
    let line = |path: &str, text: &str| format!("{path}\t{}\n", blake3::hash(text.as_bytes()).to_hex());
    let lines = line("a/c", "one") + &line("b", "two");
    assert_eq!(first.lines(), lines);
    assert_eq!(first.blake3(), blake3::hash(lines.as_bytes()).to_hex().as_str());
    assert_eq!((first.row("a/c"), first.row("b"), first.row("c")), (Some(0), Some(1), None));
    fs::write(dir.path().join("b"), "owt").expect("written");
    assert_ne!(tree().blake3(), first.blake3());
    fs::remove_file(dir.path().join("b")).expect("removed");
    assert!(tree().lines().ends_with("b\tunreadable\n"));
    assert_eq!((tree().hash_of("a/c"), tree().hash_of("b")), (first.hash_of("a/c"), None));
}
