import Base
import DeviceIO
package import Logging
package import RingIO
package import VolumeEngine

extension Volume: ServedVolume {
  package mutating func takeNotice() -> VolumeNotice? {
    guard let event = takeEvent() else { return nil }
    switch event {
    case .recovered, .ringAbsent, .grown: return VolumeNotice(event.description, isWarning: false)
    default: return VolumeNotice(event.description, isWarning: true)
    }
  }
}

extension Server {
  /// `serve` for the engine's volume: one compiled form of the loop, without the seam's cost.
  @discardableResult
  package static func run(
    _ configuration: ServerConfiguration, volume: consuming Volume, devices: DeviceSet,
    listeners: [Listener], signals: SignalDescriptor,
    clientMemory: UnsafeMutableRawBufferPointer, registered: [RegisteredMemory] = [],
    removesPaths: Bool = true, handed: [HandedConnection] = [], mailbox: Mailbox, logger: Logger,
    begins: () throws -> Void = {}
  ) throws -> ServerOutcome {
    try serve(
      configuration, volume: volume, devices: devices, listeners: listeners, signals: signals,
      clientMemory: clientMemory, registered: registered, removesPaths: removesPaths,
      handed: handed, mailbox: mailbox, logger: logger, begins: begins)
  }
}
