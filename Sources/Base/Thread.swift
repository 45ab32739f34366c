package import Glibc

/// A thread of its own for what blocks. Signals are not delivered to it.
package enum Thread {
  /// Begins; nil when no thread can be made. It must be joined or detached.
  package static func start(_ body: @escaping @Sendable () -> Void) -> pthread_t? {
    final class Body {
      let body: @Sendable () -> Void
      init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var all = sigset_t()
    var before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    let retained = Unmanaged.passRetained(Body(body))
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { context in
        // SAFETY: retained for this thread, which releases it when it ends.
        Unmanaged<Body>.fromOpaque(context!).takeRetainedValue().body()
        return nil
      }, retained.toOpaque())
    guard result == 0 else {
      retained.release()
      return nil
    }
    return thread
  }
}
