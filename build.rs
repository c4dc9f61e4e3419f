//! Has the linker fold functions that came out alike, as those of a hundred kinds often do, and leave symbols away.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_PROFILE_RELEASE_STRIP");
    let is = |what: &str, value: &str| std::env::var(what).is_ok_and(|is| is == value);
    // Rust links with LLD there; others do not know the option. Nothing here compares addresses of functions.
    let lld = is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !is("PROFILE", "release") {
        return;
    }
    if lld {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
    // Cargo forgets `strip` for a package that has options of its own in a profile. Who profiles keeps the symbols.
    if std::env::var_os("CARGO_PROFILE_RELEASE_STRIP").is_none() {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
