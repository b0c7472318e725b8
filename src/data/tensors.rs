//! Checks of the tensors and labels in files of images and features. A message does not name the file; the
//! caller adds it.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Returns a tensor, which must have the given type and number of dimensions.
pub(super) fn typed<'a>(
    tensors: &SafeTensors<'a>,
    name: &str,
    dtype: Dtype,
    rank: usize,
) -> Result<TensorView<'a>, String> {
    let t = tensors.tensor(name).map_err(|_| format!("has no tensor `{name}`"))?;
    if t.dtype() != dtype || t.shape().len() != rank {
        return Err(format!("`{name}` is {:?} {:?}, not {dtype:?} of rank {rank}", t.dtype(), t.shape()));
    }
    Ok(t)
}

/// Returns the labels in a tensor of 64-bit integers, whose type was checked.
pub(super) fn labels_of(tensor: &TensorView, classes: usize) -> Result<Vec<u32>, String> {
    checked("row", tensor.data().as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)), classes)
}

/// Returns labels as indices of classes. The message says of `what` a label is, such as `row`.
pub(super) fn checked(
    what: &str,
    labels: impl Iterator<Item = i64>,
    classes: usize,
) -> Result<Vec<u32>, String> {
    let index = |(n, label): (usize, i64)| {
        let known = u32::try_from(label).ok().filter(|&l| (l as usize) < classes);
        let last = classes - 1;
        known.ok_or_else(|| format!("{what} {n} has label {label}, but labels must be from 0 to {last}"))
    };
    labels.enumerate().map(index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_of_classes_are_accepted() {
        let of = |labels: &[i64]| checked("row", labels.iter().copied(), 3);
        assert_eq!(of(&[2, 0, 1]), Ok(vec![2, 0, 1]));
        for bad in [3, -1, 1 << 32, i64::MIN] {
            let why = format!("row 1 has label {bad}, but labels must be from 0 to 2");
            assert_eq!(of(&[0, bad]), Err(why));
        }
    }
}
