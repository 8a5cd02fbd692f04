/* Error reporters that objects compiled by the CuTe DSL call and that libcuda_dialect_runtime_static.a
 * does not define. With them a kernel library links statically and needs, at run time, only
 * libtvm_ffi.so and the driver. The signatures are those of CuteDSLRuntime.h in the DSL's wheel. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*raise_parts)(const char *kind, const char **parts, int32_t count);

extern const char *cudaGetErrorName(int code);
extern const char *cudaGetErrorString(int code);

void CuteDSLRT_TVMFFISetRaisedCudaError(raise_parts raise, int32_t code) {
  if (raise == NULL) return;
  char number[24];
  snprintf(number, sizeof number, " (%d): ", (int)code);
  const char *parts[] = {"CUDA error ", cudaGetErrorName(code), number, cudaGetErrorString(code)};
  raise("RuntimeError", parts, 4);
}

/* cudaLaunchConfig_t and cudaLaunchAttribute of driver_types.h. */
typedef struct {
  uint32_t id, pad;
  uint64_t value[8];
} launch_attribute;
typedef struct {
  uint32_t grid[3], block[3];
  size_t smem;
  void *stream;
  launch_attribute *attributes;
  uint32_t count;
} launch_config;

enum { PROGRAMMATIC_STREAM_SERIALIZATION = 6, MOST_ATTRIBUTES = 16 };

extern int __real_cudaLaunchKernelExC(const launch_config *config, const void *kernel, void **arguments);

/* Every launch of a library goes through this one (ld --wrap). With DSV4C_PDL=0 a kernel begins when
 * the one before it has ended; griddepcontrol then does nothing. */
int __wrap_cudaLaunchKernelExC(const launch_config *config, const void *kernel, void **arguments) {
  const char *pdl = getenv("DSV4C_PDL");
  if (pdl == NULL || strcmp(pdl, "0") != 0 || config->count > MOST_ATTRIBUTES)
    return __real_cudaLaunchKernelExC(config, kernel, arguments);
  launch_attribute kept[MOST_ATTRIBUTES];
  launch_config plain = *config;
  plain.attributes = kept;
  plain.count = 0;
  for (uint32_t i = 0; i < config->count; i++)
    if (config->attributes[i].id != PROGRAMMATIC_STREAM_SERIALIZATION)
      kept[plain.count++] = config->attributes[i];
  return __real_cudaLaunchKernelExC(&plain, kernel, arguments);
}

/* Only objects compiled with the debug launch check call this one. */
void CuteDSLRT_TVMFFISetRaisedCudaLaunchError(
    raise_parts raise, int32_t grid_x, int32_t grid_y, int32_t grid_z, int32_t block_x, int32_t block_y,
    int32_t block_z, int32_t threads, int64_t smem, int32_t device, int32_t max_threads,
    int32_t max_block_x, int32_t max_block_y, int32_t max_block_z, int32_t max_grid_x,
    int32_t max_grid_y, int32_t max_grid_z, int32_t max_smem, int32_t max_smem_optin,
    const char *violation, const char *file, int32_t line, int32_t column, int32_t end_column) {
  (void)threads, (void)max_threads, (void)max_block_x, (void)max_block_y, (void)max_block_z;
  (void)max_grid_x, (void)max_grid_y, (void)max_grid_z, (void)max_smem, (void)column, (void)end_column;
  if (raise == NULL) return;
  char where[192];
  snprintf(where, sizeof where, "; grid %d x %d x %d, block %d x %d x %d, %lld of %d bytes of shared memory, device %d, line %d of ",
           (int)grid_x, (int)grid_y, (int)grid_z, (int)block_x, (int)block_y, (int)block_z,
           (long long)smem, (int)max_smem_optin, (int)device, (int)line);
  const char *parts[] = {"CUDA launch refused: ", violation ? violation : "no reason given", where,
                         file ? file : "an unnamed file"};
  raise("RuntimeError", parts, 4);
}
