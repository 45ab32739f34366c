import Configuration
import RingIO

/// Where the control socket of a configuration's server is, for the server and those who ask it.
enum ControlSocket {
  static func path(for configuration: PoolConfiguration) throws -> String {
    if let unix = configuration.listen.unix { return unix + ".control" }
    let directory = try StagingDirectory(configured: configuration.log.staging)
    return "\(directory.path)/\(configuration.volume.name).control"
  }
}
