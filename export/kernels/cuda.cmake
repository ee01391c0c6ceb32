# The libraries for NVIDIA GPUs: onnxruntime's CUDA provider, and TensorRT where its headers are.

set(DVFL_CUDA "$ENV{DVFL_CUDA}" CACHE STRING
    "ON: build them; OFF: do not; empty: where nvcc is, when a wheel is built")
set(DVFL_CUDA_ARCHITECTURES "$ENV{DVFL_CUDA_ARCHITECTURES}" CACHE STRING
    "Compute capabilities, such as 87 or 87;110; empty: all of 75 to 121 that nvcc knows")
set(DVFL_TENSORRT_INCLUDE "$ENV{DVFL_TENSORRT_INCLUDE}" CACHE PATH
    "Folder of NvInferRuntime.h, TensorRT 10.3 or newer")

if(DVFL_CUDA STREQUAL "")
  set(DVFL_CUDA OFF)
  if(SKBUILD)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(DVFL_CUDA ON)
    else()
      message(STATUS "no nvcc: without the libraries for NVIDIA GPUs")
    endif()
  endif()
endif()
if(NOT DVFL_CUDA)
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF) # named below
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

if(DVFL_CUDA_ARCHITECTURES)
  set(ARCHITECTURES ${DVFL_CUDA_ARCHITECTURES})
else()
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code
                  OUTPUT_VARIABLE KNOWN COMMAND_ERROR_IS_FATAL ANY)
  # Orin is 87, Thor 110
  foreach(one 75 80 86 87 89 90 100 103 110 120 121)
    if(KNOWN MATCHES "sm_${one}[^0-9]")
      list(APPEND ARCHITECTURES ${one})
    endif()
  endforeach()
endif()
set(CODE "")
foreach(one ${ARCHITECTURES})
  list(APPEND CODE "-gencode=arch=compute_${one},code=sm_${one}")
  set(NEWEST ${one})
endforeach()
list(APPEND CODE "-gencode=arch=compute_${NEWEST},code=compute_${NEWEST}") # for GPUs to come

# a kernel that spills registers fails the build
add_library(dvfl_cuda OBJECT src/cuda/spatial.cu src/cuda/temporal.cu src/cuda/bias_gelu.cu)
target_compile_options(dvfl_cuda PRIVATE ${CODE} -Xptxas=-warn-spills,-Werror
                       -Xcompiler=-Wall,-Wextra,-Werror)

function(add_gpu_library name source headers)
  add_library(${name} MODULE ${source} $<TARGET_OBJECTS:dvfl_cuda>)
  target_include_directories(${name} SYSTEM PRIVATE "${headers}" ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(${name} PRIVATE ${WARNINGS})
  target_link_libraries(${name} PRIVATE CUDA::cudart_static)
  install(TARGETS ${name} LIBRARY DESTINATION dvfl_kernels)
endfunction()

add_gpu_library(dvfl_onnxruntime_cuda src/cuda/onnxruntime_cuda.cc "${DVFL_ONNXRUNTIME_HEADER}")

find_path(DVFL_TENSORRT_HEADER NvInferRuntime.h HINTS "${DVFL_TENSORRT_INCLUDE}"
          PATH_SUFFIXES include "${CMAKE_LIBRARY_ARCHITECTURE}")
if(DVFL_TENSORRT_HEADER)
  add_gpu_library(dvfl_tensorrt src/cuda/tensorrt_plugin.cc "${DVFL_TENSORRT_HEADER}")
else()
  message(STATUS "NvInferRuntime.h was not found: without the library for TensorRT. Name its folder: "
                 "DVFL_TENSORRT_INCLUDE=FOLDER")
endif()
