//! An emulated GPU for tests: the kernels, compiled by a C++ compiler with `kernels/emulator.h`, run in the
//! memory of the process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::fs;
use std::num::NonZero;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

use libloading::Library;

use super::Result;
use super::kernels::source;
use super::tiles::THREADS;
use crate::backend::Precision;

const HEADER: &str = include_str!("kernels/emulator.h");

/// Bytes of dynamic shared memory that a block can have, as on an A100.
pub const MAX_SHARED: usize = 160 << 10;

/// Bytes of it per block with which two blocks fit on a multiprocessor of an H100.
pub const SHARED_FOR_TWO_BLOCKS: usize = 110 << 10;

/// Bytes of the guard behind each allocation, which no kernel may write.
const GUARD: usize = 256;
const GUARDED: u8 = 0xa5;

type Kernel = unsafe extern "C" fn(*const c_void);
type Launch = unsafe extern "C" fn(Kernel, u32, u32, u32, *const c_void, i32, *mut Written, usize) -> i32;

/// Eight bytes that a kernel wrote; the layout is that in `emulator.h`.
#[repr(C)]
struct Written {
    at: *mut u64,
    other: u64,
}

/// The compiled kernels of one type of activations.
pub struct Emulator {
    copies: &'static [Kernels],
    /// Whether threads and blocks run last to first, and a kernel starts before the previous one has run.
    hostile: bool,
    recording: RefCell<Option<Recorded>>,
    /// Address and size in bytes of each allocation.
    memory: RefCell<Vec<(u64, usize)>>,
    /// What the last kernel wrote, if the next one is to start early.
    written: RefCell<Vec<Written>>,
}

/// A copy of the library of kernels. Its fibers and shared memory are static variables, so it runs one kernel at
/// a time.
struct Kernels {
    loaded: Library,
    running: Mutex<()>,
}

// SAFETY: in the tests, an emulator and what shares it (memory, graphs) are used by one thread at a time, and
// launches, which also use static variables of a library, take its lock.
unsafe impl Send for Emulator {}
// SAFETY: as above.
unsafe impl Sync for Emulator {}

/// Recorded launches: kernel, grid, shared memory, arguments.
pub type Recorded = Vec<(&'static str, usize, usize, Vec<u8>)>;

impl Emulator {
    /// Compiles the kernels; returns `None` if there is no C++ compiler.
    pub fn new(precision: Precision, hostile: bool) -> Option<Emulator> {
        static LIBRARIES: [OnceLock<Option<Vec<Kernels>>>; 2] = [OnceLock::new(), OnceLock::new()];
        let copies =
            LIBRARIES[usize::from(precision == Precision::Bf16)].get_or_init(|| build(precision)).as_ref()?;
        Some(Emulator {
            copies,
            hostile,
            recording: RefCell::new(None),
            memory: RefCell::default(),
            written: RefCell::default(),
        })
    }

    /// Returns whether threads, blocks and kernels run in another order than usual.
    pub fn is_hostile(&self) -> bool {
        self.hostile
    }

    /// Returns the size of a kernel's arguments according to the library.
    pub fn size(&self, kernel: &str) -> usize {
        let name = kernel.replacen("remix", "size", 1);
        // SAFETY: the library has such a number for each kernel.
        unsafe { **self.copies[0].loaded.get::<*const usize>(name.as_bytes()).expect("a size") }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + GUARD, 256).expect("a size")
    }

    pub fn zeros(&self, bytes: usize) -> u64 {
        // SAFETY: the layout is not empty, and the guard is inside it.
        unsafe {
            let start = alloc_zeroed(Self::layout(bytes));
            assert!(!start.is_null(), "out of memory");
            start.add(bytes).write_bytes(GUARDED, GUARD);
            self.memory.borrow_mut().push((start as u64, bytes));
            start as u64
        }
    }

    pub fn free(&self, at: u64, bytes: usize) {
        let start = at as *mut u8;
        self.memory.borrow_mut().retain(|(other, _)| *other != at);
        self.written.borrow_mut().clear();
        // SAFETY: allocated by `zeros` with this size.
        unsafe {
            let guard = std::slice::from_raw_parts(start.add(bytes), GUARD);
            let sound = guard.iter().all(|&b| b == GUARDED);
            dealloc(start, Self::layout(bytes));
            assert!(sound || std::thread::panicking(), "a kernel wrote beyond {bytes} bytes");
        }
    }

    pub fn launch(&self, kernel: &'static str, grid: usize, shared: usize, args: &[u8]) {
        if let Some(list) = &mut *self.recording.borrow_mut() {
            list.push((kernel, grid, shared, args.to_vec()));
            return;
        }
        assert_eq!(self.size(kernel), args.len(), "{kernel}: the struct is another in args.rs");
        assert!(shared <= MAX_SHARED, "{kernel}: {shared} bytes of shared memory");
        let name = CString::new(kernel).expect("a name");
        let mut written = self.written.borrow_mut();
        let before = self.contents();
        let (library, running) = self.idle();
        // SAFETY: the functions have these types and the arguments have this size; the memory that was
        // written is still allocated.
        let status = unsafe {
            let run = library.get::<Launch>(b"remix_launch\0").expect("the emulator");
            let f = library.get::<Kernel>(name.as_bytes_with_nul()).expect("the kernel");
            let (args, reverse) = (args.as_ptr().cast(), i32::from(self.hostile));
            let (early, len) = (written.as_mut_ptr(), written.len());
            run(*f, grid as u32, THREADS as u32, shared as u32, args, reverse, early, len)
        };
        drop(running);
        let wrong = match status {
            0 => None,
            1 => Some("too much shared memory is asked for"),
            2 => Some("some threads wait for ever"),
            _ => Some("it wrote to shared memory that it had not asked for"),
        };
        assert_eq!(wrong, None, "{kernel}");
        written.clear();
        for ((start, _), (before, now)) in self.memory.borrow().iter().zip(before.iter().zip(self.contents()))
        {
            for (i, (&other, now)) in before.iter().zip(&now).enumerate() {
                if other != *now {
                    written.push(Written { at: (*start as *mut u64).wrapping_add(i), other });
                }
            }
        }
    }

    /// Returns a copy of the library that runs no kernel, and the lock that keeps it so.
    fn idle(&self) -> (&Library, MutexGuard<'_, ()>) {
        let idle = self.copies.iter().find_map(|copy| Some((&copy.loaded, copy.running.try_lock().ok()?)));
        idle.unwrap_or_else(|| {
            let Kernels { loaded, running } = &self.copies[0];
            (loaded, running.lock().expect("no launch panics"))
        })
    }

    /// Returns a copy of all memory if the next kernel must know what this one wrote. The last bytes of a
    /// copy may be of the guard.
    fn contents(&self) -> Vec<Vec<u64>> {
        let words = |&(at, bytes): &(u64, usize)| {
            // SAFETY: the memory is allocated, aligned, and followed by a guard.
            unsafe { std::slice::from_raw_parts(at as *const u64, bytes.div_ceil(8)) }.to_vec()
        };
        if self.hostile { self.memory.borrow().iter().map(words).collect() } else { vec![] }
    }

    pub fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<Recorded> {
        *self.recording.borrow_mut() = Some(vec![]);
        let done = launches();
        let recorded = self.recording.borrow_mut().take().unwrap_or_default();
        done.map(|()| recorded)
    }

    pub fn replay(&self, recorded: &Recorded) {
        // A graph starts only when all operations issued before have ended.
        self.written.borrow_mut().clear();
        for (kernel, grid, shared, args) in recorded {
            self.launch(kernel, *grid, *shared, args);
        }
    }
}

/// Compiles the kernels, and loads a copy of the library for each test that the test runner runs at a time.
fn build(precision: Precision) -> Option<Vec<Kernels>> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version = Command::new(&compiler).arg("--version").output();
    if !version.is_ok_and(|v| v.status.success()) {
        super::tests::skipped(format!("there is no C++ compiler ({compiler}) to emulate a GPU with"));
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (code, library) = (dir.path().join("kernels.cc"), dir.path().join("kernels.so"));
    fs::write(&code, source(HEADER, precision)).expect("written");
    let flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-w"];
    let out = Command::new(&compiler).args(flags).arg("-o").args([&library, &code]).output().expect("run");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let tests = std::thread::available_parallelism().map_or(1, NonZero::get);
    let copies = (0..tests).map(|n| {
        let copy = library.with_extension(format!("{n}.so"));
        fs::copy(&library, &copy).expect("copied");
        // SAFETY: the library's initialisers do nothing.
        Kernels { loaded: unsafe { Library::new(&copy) }.expect("a library"), running: Mutex::new(()) }
    });
    Some(copies.collect())
}
