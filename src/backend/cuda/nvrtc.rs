//! NVRTC, the run-time compiler of CUDA C++, loaded at run time. It needs no GPU.

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use libloading::Library;

use super::{Error, Result};

/// File names of NVRTC, newest version first. pip's wheels and the toolkit use the names with a version
/// number.
const NAMES: [&str; 4] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];

type Program = *mut c_void;

/// The functions of the compiler. Each returns 0 or an error code.
pub struct Nvrtc {
    version: unsafe extern "C" fn(*mut i32, *mut i32) -> i32,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        i32,
        *const *const c_char,
        *const *const c_char,
    ) -> i32,
    compile: unsafe extern "C" fn(Program, i32, *const *const c_char) -> i32,
    destroy: unsafe extern "C" fn(*mut Program) -> i32,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> i32,
    log: unsafe extern "C" fn(Program, *mut c_char) -> i32,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> i32,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> i32,
    _library: Library,
}

impl Nvrtc {
    /// Returns the compiler, which is loaded once.
    ///
    /// # Errors
    /// Returns [`Error::NoCompiler`] if the library is not found.
    pub fn get() -> Result<&'static Nvrtc> {
        static NVRTC: OnceLock<Option<Nvrtc>> = OnceLock::new();
        NVRTC
            .get_or_init(|| NAMES.iter().find_map(|name| Nvrtc::load(name)))
            .as_ref()
            .ok_or(Error::NoCompiler)
    }

    fn load(name: &str) -> Option<Nvrtc> {
        // SAFETY: the library's initialisers may run at any time, and the types are those of nvrtc.h.
        unsafe {
            let library = Library::new(name).ok()?;
            Some(Nvrtc {
                version: *library.get(b"nvrtcVersion").ok()?,
                create: *library.get(b"nvrtcCreateProgram").ok()?,
                compile: *library.get(b"nvrtcCompileProgram").ok()?,
                destroy: *library.get(b"nvrtcDestroyProgram").ok()?,
                log_size: *library.get(b"nvrtcGetProgramLogSize").ok()?,
                log: *library.get(b"nvrtcGetProgramLog").ok()?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize").ok()?,
                cubin: *library.get(b"nvrtcGetCUBIN").ok()?,
                _library: library,
            })
        }
    }

    /// Returns the compiler's version, such as 13.0.
    pub fn version(&self) -> String {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two numbers.
        unsafe { (self.version)(&raw mut major, &raw mut minor) };
        format!("{major}.{minor}")
    }

    /// Compiles a source to machine code for one architecture, such as `sm_90`.
    ///
    /// # Errors
    /// Returns [`Error::Compile`] with the compiler's log if the source does not compile.
    pub fn compile(&self, source: &str, arch: &str, options: &[&str]) -> Result<Vec<u8>> {
        let failed = |log: &str| Error::Compile { arch: arch.to_owned(), log: log.to_owned() };
        let text = |s: &str| CString::new(s).map_err(|_| failed("a NUL in the source"));
        let target = format!("--gpu-architecture={arch}");
        let options = std::iter::once(&target[..])
            .chain(options.iter().copied())
            .map(text)
            .collect::<Result<Vec<_>>>()?;
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        let (source, name) = (text(source)?, c"remix.cu");
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: the strings end in NUL and live until the program is destroyed.
        unsafe {
            if (self.create)(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none) != 0 {
                return Err(failed("nvrtcCreateProgram failed"));
            }
            let status = (self.compile)(program, pointers.len() as i32, pointers.as_ptr());
            let (size, get) =
                if status == 0 { (self.cubin_size, self.cubin) } else { (self.log_size, self.log) };
            let mut len = 0;
            let mut bytes = vec![];
            if size(program, &raw mut len) == 0 {
                bytes.resize(len, 0);
                get(program, bytes.as_mut_ptr().cast());
            }
            (self.destroy)(&raw mut program);
            if status == 0 && !bytes.is_empty() {
                Ok(bytes)
            } else {
                Err(failed(&String::from_utf8_lossy(&bytes)))
            }
        }
    }
}
