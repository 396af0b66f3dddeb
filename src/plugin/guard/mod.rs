//! Owns the guard: the small process between the host and one plugin process, whose only child the plugin is.
//! It is this program, started again as `mangrove guard`; the module `process` is its other end.
//!
//! - It is the *subreaper* of everything that the plugin starts: a process that calls `setsid`, or whose parent
//!   ends, becomes the guard's child and cannot get lost. When the plugin's own process ends, the guard ends all
//!   of them, and then itself.
//! - Its standard input is a socket to the host. When that closes (the host was killed, by whatever means), it
//!   does the same at once: no orphan outlives the host.
//! - When the guard itself is killed, the kernel's parent-death signal ends the plugin, and the host ends what else
//!   has inherited the guard's mark in its environment.
//! - It alone signals processes that it has not yet reaped, so no signal can hit a reused pid.
//!
//! It has two threads and no runtime: the main thread reaps, the other listens to the host.

mod family;
mod words;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use super::limits::Limits;
pub(super) use family::{descendants, descends, is_halted, kill_descendants, kill_marked};
pub(super) use words::{Order, Report};

/// The first argument of a guard, behind the program's name.
pub const COMMAND: &str = "guard";

/// How the line of output begins that says how many processes the plugin has left behind when it ended.
pub(super) const LEFT: &str = "ended with the plugin, processes that it had left behind: ";

/// Runs as a guard: with the limits, the program and its arguments from `args`, what is left of the command line
/// behind [`COMMAND`]. Only a host starts it; it talks to it over standard input.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    match guard(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Into the plugin's output. Nobody may read that any more.
            let _unread = writeln!(io::stderr(), "the guard of this plugin failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guard(mut args: impl Iterator<Item = OsString>) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "it is started by a host only");
    let limits = args.next().and_then(|text| Limits::decode(text.to_str()?));
    let (limits, program) = limits.zip(args.next()).ok_or_else(wrong)?;
    let mut host = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut hears = host.try_clone()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    if next_order(&mut hears) != Some(Order::Start) {
        return Ok(());
    }
    let main = match spawn(&program, args, limits) {
        Ok(child) => Pid::from_child(&child),
        Err(error) => return Report::failed(&error).write(&mut host),
    };
    let plugin = Arc::new(Mutex::new(Some(main)));
    // The host may have been killed meanwhile. Whatever fails from here on, nobody is left behind.
    if let Err(error) = attend(main, &mut host, hears, &plugin) {
        let _unread = writeln!(
            io::stderr(),
            "the plugin is ended, its guard cannot go on: {error}"
        );
        signal(&plugin, Signal::KILL);
    }
    let status = reap_until(main, &plugin)?;
    end_family()?;
    // The host may be gone; then nobody needs to know.
    let _unread = Report::ended(status).write(&mut host);
    Ok(())
}

/// Tells the host that its plugin runs, and follows its orders from then on.
fn attend(
    main: Pid,
    host: &mut UnixStream,
    hears: UnixStream,
    plugin: &Arc<Mutex<Option<Pid>>>,
) -> io::Result<()> {
    Report::Started(main).write(host)?;
    let plugin = Arc::clone(plugin);
    // Not joined: it ends with the process, which ends when nobody is left.
    std::thread::Builder::new()
        .name("orders".to_owned())
        .spawn(move || obey(hears, &plugin))?;
    Ok(())
}

/// Starts the plugin from the main thread, whose end is what the parent-death signal is about.
#[expect(unsafe_code, reason = "what runs between fork and exec")]
fn spawn(program: &OsString, args: impl Iterator<Item = OsString>, limits: Limits) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).process_group(0);
    let guard = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These are plain system calls on
    // copied integers, and making an error of a constant allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The guard may have died before the line above took effect: then nobody would send the signal.
            if rustix::process::getppid() != Some(guard) {
                return Err(io::Error::from_raw_os_error(Errno::SRCH.raw_os_error()));
            }
            limits.apply()
        });
    }
    command.spawn()
}

/// Follows the host's orders until it closes its end, which is the last order: end everything.
fn obey(mut host: UnixStream, plugin: &Mutex<Option<Pid>>) {
    while let Some(order) = next_order(&mut host) {
        match order {
            Order::Start => {}
            Order::Terminate => signal(plugin, Signal::TERM),
            Order::Kill => signal(plugin, Signal::KILL),
        }
    }
    signal(plugin, Signal::KILL);
}

/// `None`: the host is gone, or says what is no order.
fn next_order(host: &mut UnixStream) -> Option<Order> {
    let mut byte = [0];
    host.read_exact(&mut byte).ok()?;
    Order::decode(byte[0])
}

/// Signals the plugin's process group, unless its leader is reaped. The main thread ends whoever is left then.
fn signal(plugin: &Mutex<Option<Pid>>, signal: Signal) {
    if let Some(group) = *lock(plugin) {
        // It may have ended: then it waits to be reaped.
        let _ended = rustix::process::kill_process_group(group, signal);
    }
}

/// Reaps whoever ends until it is `main`.
fn reap_until(main: Pid, plugin: &Mutex<Option<Pid>>) -> io::Result<WaitStatus> {
    loop {
        // Waits without reaping: that is done under the lock, so that nobody signals a pid that is free again.
        let seen = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        match seen {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let mut plugin = lock(plugin);
        if let Some((pid, status)) = rustix::process::wait(WaitOptions::NOHANG)?
            && pid == main
        {
            *plugin = None;
            return Ok(status);
        }
    }
}

/// Kills and reaps everything that the plugin has started, until nobody is left.
fn end_family() -> io::Result<()> {
    let us = rustix::process::getpid();
    let mut told = false;
    loop {
        let killed = kill_descendants(us)?;
        if killed > 0 && !told {
            told = true;
            // Not an error of the plugin's: what it said last on standard error may tell why it ended.
            let _unread = writeln!(io::stdout(), "{LEFT}{killed}");
        }
        // Every one of them becomes our child when its parent ends. New ones may have been started meanwhile.
        match rustix::process::wait(WaitOptions::empty()) {
            // Whoever has ended as well, before everybody is looked at again: there may be thousands.
            Ok(_) => while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {},
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn lock(plugin: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    plugin.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes a program of unit tests a guard: it is to run one test only, the one below.
#[cfg(test)]
pub(super) const TEST: &[&str] = &["--exact", "plugin::guard::tests::be_a_guard", "--nocapture", "--"];

#[cfg(test)]
mod tests {
    use super::*;

    /// Not a test, but the guard of other tests, when it is started as they do.
    #[test]
    fn be_a_guard() {
        let mut args = std::env::args_os()
            .skip_while(|word| word != "--")
            .skip(1)
            .peekable();
        if args.peek().is_some() {
            let succeeded = guard(args).is_ok();
            // At once: what else the runner of tests would print is not the plugin's.
            std::process::exit(i32::from(!succeeded));
        }
    }
}
