import Synchronization

/// Makes a large struct that holds one live in memory only, so that calls pass its address.
///
/// The compiler takes a struct that it could in principle load as a value, and copies it, whole, to
/// the stack for every call of a method that does not change it: 10 KB for the volume, several
/// times for each request (measured: a fifth of the server's time). A struct with a part that has
/// no value apart from its place, as an atomic has none, is never copied.
package struct Anchor: ~Copyable {
  private let place = Atomic<UInt8>(0)

  package init() {}
}
