import Base
import Glibc
import Logging
import NBDProtocol
import RingIO
import Server
import Testing

/// A server over a volume in memory, on a thread of its own, behind a unix socket or TCP.
final class TestServer {
  let control: VolumeControl
  let mailbox: Mailbox
  private let directory: String
  private(set) var address: SocketAddress
  private var thread = pthread_t()
  private var isStopped = false

  /// What the server's thread does: given configuration, listeners and mailbox, serve.
  typealias Body = @Sendable (ServerConfiguration, [Listener], Mailbox) throws -> Void

  private final class Start: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  /// A server over a volume in memory.
  convenience init(
    size: Int = 16 << 20, clientMemory: Int = 16 << 20, tcp: Bool = false,
    _ change: (inout Limits) -> Void = { _ in }
  ) throws {
    let control = VolumeControl()
    try self.init(tcp: tcp, control: control, change) { configuration, listeners, mailbox in
      let memory = try MemoryRegion(size: clientMemory)
      let signals = try SignalDescriptor([SIGUSR2])
      defer { signals.close() }
      try Server.serve(
        configuration, volume: MemoryVolume(size: size, control),
        devices: DeviceSet(paths: []), listeners: listeners, signals: signals,
        clientMemory: memory.bytes, mailbox: mailbox, logger: TestServer.logger)
    }
  }

  init(
    tcp: Bool = false, control: VolumeControl = VolumeControl(),
    _ change: (inout Limits) -> Void = { _ in }, body: @escaping Body
  ) throws {
    self.control = control
    var template = Array("/tmp/server-test-XXXXXX".utf8CString)
    _ = mkdtemp(&template)
    directory = String(
      decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    var configuration = ServerConfiguration(volumeName: "vol", description: "a test")
    configuration.drainMilliseconds = 2000
    change(&configuration.limits)
    let wanted: SocketAddress =
      tcp ? .tcp(host: "127.0.0.1", port: 0) : .unix(path: directory + "/socket")
    let listeners = try Listener.open(wanted)
    address = listeners[0].address
    let mailbox = try Mailbox()
    self.mailbox = mailbox
    let fixed = configuration
    let start = Start {
      do { try body(fixed, listeners, mailbox) } catch {
        Issue.record("the server ended: \(error)")
      }
    }
    pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, Unmanaged.passRetained(start).toOpaque())
  }

  static var logger: Logger {
    Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
  }

  deinit { stop() }

  /// Shuts down and waits for it.
  func stop() {
    guard !isStopped else { return }
    isStopped = true
    mailbox.requestShutdown()
    pthread_join(thread, nil)
    rmdir(directory)
  }

  /// Waits for the thread, which was told to stop otherwise.
  func join() {
    isStopped = true
    pthread_join(thread, nil)
    rmdir(directory)
  }

  /// Waits up to 5 s until the loop's numbers are as wanted.
  func expect(
    _ what: Comment, _ location: SourceLocation = #_sourceLocation,
    _ condition: (ServerSnapshot) -> Bool
  ) {
    for _ in 0..<500 {
      mailbox.requestSnapshot()
      usleep(10_000)
      if condition(mailbox.snapshot) { return }
    }
    Issue.record("\(what): \(mailbox.snapshot.clients)", sourceLocation: location)
  }

  /// Nothing of any client is left: every buffer came back.
  func expectIdle(_ location: SourceLocation = #_sourceLocation) {
    expect("all is given back", location) {
      $0.clients.connections == 0 && $0.clients.bufferBytesFree == $0.clients.bufferBytes
        && $0.clients.bufferBytes > 0
    }
  }
}

/// Waits up to 5 s for something that another thread does.
func eventually(
  _ what: Comment, _ location: SourceLocation = #_sourceLocation, _ condition: () -> Bool
) {
  for _ in 0..<2500 {
    if condition() { return }
    usleep(2000)
  }
  Issue.record(what, sourceLocation: location)
}
