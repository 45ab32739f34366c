import Glibc

/// What a dying process says: the tail of the trace of the seed it was in. An invariant of the
/// engine, a trap, a fault or a seed that takes too long ends the process; the story must not be
/// lost with it.
package enum LastWords {
  // SAFETY: set and read by the one thread that runs seeds, and by its signal handlers.
  nonisolated(unsafe) private static var trace: Trace?
  nonisolated(unsafe) private static var limit = 0

  /// From now on the end of this process is told with the last `limit` events of `trace`.
  package static func watch(_ trace: Trace?, limit: Int) {
    self.trace = trace
    self.limit = limit
  }

  /// Installs the handlers.
  package static func install() {
    for number in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGALRM] {
      var action = sigaction()
      action.__sigaction_handler.sa_handler = { number in LastWords.speak(number) }
      // Once: a second signal, out of the handler too, ends the process.
      action.sa_flags = Int32(bitPattern: UInt32(SA_RESETHAND)) | SA_NODEFER
      sigaction(number, &action, nil)
    }
  }

  // The heap may be broken here; the worst that follows is a process that dies while dying.
  private static func speak(_ number: Int32) {
    signal(SIGALRM, SIG_DFL)
    alarm(10)
    if let trace {
      for line in trace.tail(limit) { print(line) }
    }
    fflush(nil)
    // The way here, for a trap that has no words of its own.
    var frames = [UnsafeMutableRawPointer?](repeating: nil, count: 24)
    let depth = glibcBacktrace(&frames, Int32(frames.count))
    if number != SIGABRT { glibcBacktraceSymbols(frames, depth, 1) }
    print(number == SIGALRM ? "The seed takes too long." : "Died of signal \(number).")
    fflush(nil)
    signal(number, SIG_DFL)
    raise(number)
    _exit(1)
  }
}

// <execinfo.h>, which the Glibc module leaves out.
@_silgen_name("backtrace")
private func glibcBacktrace(
  _ buffer: UnsafeMutablePointer<UnsafeMutableRawPointer?>, _ size: Int32
) -> Int32

@_silgen_name("backtrace_symbols_fd")
private func glibcBacktraceSymbols(
  _ buffer: UnsafePointer<UnsafeMutableRawPointer?>, _ size: Int32, _ descriptor: Int32)
