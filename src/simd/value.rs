//! The types that activations are stored as. Parameters, statistics, gradients of parameters and the loss are
//! always `f32`.

use candle_core::{CpuStorage, DType};
use half::bf16;

use super::{Isa, Task, Vector, run, run_pairs};

/// A type of activations: `f32`, or `bf16`, of which the kernels process two neighbouring values per lane.
///
/// # Safety
/// `DTYPE` must name the type, `PACK` of its values must take 32 bits, and any bits must be a valid value.
pub unsafe trait Value: Copy + Send + Sync + 'static {
    /// Candle's name for the type.
    const DTYPE: DType;
    /// Zero.
    const ZERO: Self;
    /// The number of values per 32-bit lane: neighbouring channels of a pixel, or one value from each of as
    /// many images or tiles.
    const PACK: usize;

    /// Converts the value to `f32`, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to the nearest value.
    fn rounded(x: f32) -> Self;
    /// Returns the values of a storage if it is of this type.
    fn slice(storage: &CpuStorage) -> Option<&[Self]>;
    /// Returns the values of a storage, mutably, if it is of this type.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
    /// Returns the instruction set in use for these values.
    fn isa() -> Isa;
    /// Runs a task whose kernels process these values.
    fn run(task: impl Task);

    /// Reads a vector.
    ///
    /// # Safety
    /// The contract of [`Vector`] applies.
    unsafe fn load<V: Vector>(p: *const Self) -> V;
    /// Writes a vector.
    ///
    /// # Safety
    /// The contract of [`Vector`] applies.
    unsafe fn store<V: Vector>(v: V, p: *mut Self);
    /// Writes a vector that is not read again soon, like [`Vector::stream`]. In bf16 a vector is only half a
    /// cache line, and is stored like any other.
    ///
    /// # Safety
    /// The contract of [`Vector`] applies.
    unsafe fn stream<V: Vector>(v: V, p: *mut Self);
    /// Returns `acc + Σ a·b`, where the sum is over the values of each lane.
    ///
    /// # Safety
    /// The contract of [`Vector`] applies.
    unsafe fn multiply_add<V: Vector>(acc: V, a: V, b: V) -> V;

    /// Returns the number of lanes that the channels of a pixel take.
    #[inline(always)]
    fn lanes(channels: usize) -> usize {
        channels.div_ceil(Self::PACK)
    }

    /// Reinterprets lanes as the values that they hold.
    #[inline(always)]
    fn unpack(lanes: &mut [f32]) -> &mut [Self] {
        // SAFETY: a lane is `PACK` values without padding, and any bits are a value.
        unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * Self::PACK) }
    }
}

/// Implements [`Value`] for a type; the arguments are what differs between the two types.
macro_rules! value {
    ($type:ident, $dtype:ident, $pack:literal, $isa:expr,
     $run:ident, $load:ident, $store:ident, $stream:ident, $fma:ident) => {
        // SAFETY: the arguments name the type and its size, and any bits are a valid float.
        unsafe impl Value for $type {
            const DTYPE: DType = DType::$dtype;
            const ZERO: Self = <$type>::from_bits(0);
            const PACK: usize = $pack;

            #[inline(always)]
            fn to_f32(self) -> f32 {
                self.into()
            }
            #[inline(always)]
            fn rounded(x: f32) -> Self {
                let mut value = Self::ZERO;
                // SAFETY: as a vector, an `f32` has one lane and needs no instruction set.
                unsafe { x.$store(&raw mut value) };
                value
            }
            fn slice(storage: &CpuStorage) -> Option<&[Self]> {
                if let CpuStorage::$dtype(values) = storage { Some(values) } else { None }
            }
            fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                if let CpuStorage::$dtype(values) = storage { Some(values) } else { None }
            }
            fn isa() -> Isa {
                $isa
            }
            fn run(task: impl Task) {
                $run(task);
            }
            #[inline(always)]
            unsafe fn load<V: Vector>(p: *const Self) -> V {
                // SAFETY: the caller's contract.
                unsafe { V::$load(p) }
            }
            #[inline(always)]
            unsafe fn store<V: Vector>(v: V, p: *mut Self) {
                // SAFETY: the caller's contract.
                unsafe { v.$store(p) }
            }
            #[inline(always)]
            unsafe fn stream<V: Vector>(v: V, p: *mut Self) {
                // SAFETY: the caller's contract.
                unsafe { v.$stream(p) }
            }
            #[inline(always)]
            unsafe fn multiply_add<V: Vector>(acc: V, a: V, b: V) -> V {
                // SAFETY: the caller's contract.
                unsafe { acc.$fma(a, b) }
            }
        }
    };
}

value!(f32, F32, 1, Isa::get().for_floats(), run, load, store, stream, fma);
value!(bf16, BF16, 2, Isa::get().for_pairs(), run_pairs, load_bf16, store_bf16, store_bf16, dot);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::simd::{MAX_LANES, for_each_isa};
    use rand::Rng;

    /// A task that stores values as bf16, loads them again, makes pairs of each with its negative, and
    /// multiplies the pairs with pairs of 2 and 3.
    struct Convert<'a> {
        values: &'a [f32],
        stored: &'a mut [bf16],
        loaded: &'a mut [f32],
        pairs: &'a mut [f32],
        dots: &'a mut [f32],
    }

    impl Task for Convert<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for at in (0..self.values.len()).step_by(V::LANES) {
                // SAFETY: the caller's contract; all slices have the same length, a multiple of all `LANES`.
                unsafe {
                    let v = V::load(self.values.as_ptr().add(at));
                    v.store_bf16(self.stored.as_mut_ptr().add(at));
                    V::load_bf16(self.stored.as_ptr().add(at)).store(self.loaded.as_mut_ptr().add(at));
                    let pairs = V::pair(v, V::splat(0.0).sub(v));
                    pairs.store(self.pairs.as_mut_ptr().add(at));
                    let factors = V::pair(V::splat(2.0), V::splat(3.0));
                    V::splat(1.0).dot(pairs, factors).store(self.dots.as_mut_ptr().add(at));
                }
            }
        }
    }

    #[test]
    fn bf16_of_every_instruction_set_is_that_of_half() {
        let mut rng = stream(0, Purpose::Init, 0, 0);
        let mut values = vec![0.0, 1.0, -1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN];
        // Ties go to the even neighbour, and values beside ties to the nearest one.
        for bits in [0x3f80_8000, 0x3f81_8000, 0x3f80_7fff, 0x3f80_8001, 0xbf81_7fff, 0xbf81_8001_u32] {
            values.push(f32::from_bits(bits));
        }
        values.resize_with(64 * MAX_LANES, || rng.random_range(-1e3..1e3));
        let bits = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
        for_each_isa(|isa| {
            let n = values.len();
            let mut stored = vec![bf16::ZERO; n];
            let (mut loaded, mut pairs, mut dots) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
            bf16::run(Convert {
                values: &values,
                stored: &mut stored,
                loaded: &mut loaded,
                pairs: &mut pairs,
                dots: &mut dots,
            });
            for (i, &x) in values.iter().enumerate() {
                let (low, high) = (bf16::from_f32(x).to_f32(), bf16::from_f32(0.0 - x).to_f32());
                let what = format!("{isa:?} {x:e}");
                assert_eq!(bits(stored[i].to_f32()), bits(low), "stored: {what}");
                assert_eq!(bits(loaded[i]), bits(low), "loaded: {what}");
                let halves = [pairs[i].to_bits() << 16, pairs[i].to_bits() & 0xffff_0000];
                assert_eq!(halves.map(|b| bits(f32::from_bits(b))), [low, high].map(bits), "pair: {what}");
                let (dot, near) = (1.0 + 2.0 * low + 3.0 * high, 1e-6 * (1.0 + 6.0 * low.abs()));
                assert!(
                    bits(dots[i]) == bits(dot) || (dots[i] - dot).abs() <= near,
                    "dot: {what}: {}",
                    dots[i]
                );
            }
        });
    }
}
