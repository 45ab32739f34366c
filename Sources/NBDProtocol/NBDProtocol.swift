/// The NBD protocol as the server speaks it: bytes in, values out; values in, bytes out. No
/// socket, no clock, no allocation while requests flow.
///
/// The source of truth is the NBD project's `doc/proto.md`, with its branch
/// `extension-ext-header` for extended headers. Comments here name the sections of that file.
///
/// ```text
///            greeting                                   reply chunks
///               ▲                                            ▲
/// window ─► Handshake.step ─► Session ─► Session.parse ─► Session.validate ─► (execute: Server)
///            awaitingFlags                RequestStep         Verdict
///            haggling
///            finished
/// ```
///
/// The caller owns a window of received bytes. Each `step` or `parse` looks at the window's
/// beginning and says how many bytes it has consumed; zero means that the unit is not complete
/// yet. Nothing of the window is kept, so any cutting of the same bytes gives the same events.
/// A request's payload is not part of this: `parse` says how many bytes of it follow.
///
/// | handshake state | on | next |
/// |---|---|---|
/// | awaitingFlags | known client flags | haggling |
/// | awaitingFlags | unknown client flags | finished, close |
/// | haggling | EXPORT_NAME or GO accepted | finished, transmission |
/// | haggling | ABORT, bad magic, a limit passed | finished, close |
/// | haggling | STARTTLS accepted | awaiting the first encrypted option; all state forgotten |
/// | haggling | any other option | haggling, with a reply |
///
/// Invariants:
/// - N1: no byte of a peer can stop the process: lengths are compared before they are added,
///   and every multi-byte load lies inside the window.
/// - N2: an option is answered exactly once, EXPORT_NAME and a closing excepted.
/// - N3: parse reads bytes, validate decides; what was validated is not looked at again.
/// - N4: no text of a peer is ever sent back or logged as it came.
/// - N5: a reply's encoder writes at most `ReplyEncoder.maximumHeader` bytes.
/// - N6: the caller gives a handshake step `Handshake.replyCapacity` bytes for its replies.
/// - N7: the negotiated reply style holds for every reply of the connection; a READ is never
///   answered simply once chunks were negotiated.
package enum NBDProtocol {}
