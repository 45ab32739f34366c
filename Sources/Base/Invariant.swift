import Glibc

/// What runs once, on the cold path, before a violated invariant stops the process: the server
/// sets it at start to dump the flight recorder. Set it before any other thread exists.
nonisolated(unsafe) package var invariantViolated: (@Sendable (String) -> Void)? = nil

/// A programmer's error stops the process: a stopped volume recovers, a wrong one does not.
///
/// What a disk, a peer or an operator does is never an invariant but a typed error. `message`
/// begins with the invariant's number in its front-door file, such as `"L3: …"`.
@inlinable @inline(__always)
package func invariant(
  _ condition: @autoclosure () -> Bool, _ message: StaticString,
  file: StaticString = #fileID, line: UInt = #line
) {
  if _slowPath(!condition()) { violate(message, file, line) }
}

/// Says which invariant does not hold, and where; then stops the process.
@inline(never) @usableFromInline
package func violate(_ message: StaticString, _ file: StaticString, _ number: UInt) -> Never {
  let text = "invariant violated: \(message) (\(file):\(number))"
  invariantViolated?(text)
  let line = text + "\n"
  _ = line.withCString { write(2, $0, strlen($0)) }
  abort()
}

/// Expensive whole-structure checks: run in debug builds, and wherever the simulator asks.
@inlinable @inline(__always)
package func verify(_ body: () -> Void) {
  #if DEBUG
    body()
  #endif
}
